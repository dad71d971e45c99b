#!/usr/bin/env node
/** The command line: loragrad [serve], worker, --help, --version. */
import { parseArgs } from 'node:util';
import { allowedValues, SETTINGS } from './settings.js';
import { packageVersion } from './version.js';

const WIDTH = 96;

/** Words in lines of at most so many characters. */
function wrap(text: string, indent: string): string {
  const lines = [''];
  for (const word of text.split(' ')) {
    const line = lines[lines.length - 1];
    if (line && line.length + 1 + word.length > WIDTH - indent.length) lines.push(word);
    else lines[lines.length - 1] = line ? `${line} ${word}` : word;
  }
  return lines.map((line) => indent + line).join('\n');
}

function help(): string {
  const settings = SETTINGS.map(([name, setting]) => {
    const standard = setting.default === '' ? '' : `, ${setting.default} by default`;
    return `  ${name}: ${allowedValues(setting)}${standard}\n${wrap(setting.description, '      ')}`;
  });
  return `loragrad ${packageVersion()}: gradients of LoRA adapters in attention layers over HTTP, with error bars

Usage: loragrad [serve]     start the service; SIGTERM and Ctrl+C end it when its requests are done
       loragrad worker      run parts of large problems for services with the same queue
       loragrad --help      show this text
       loragrad --version   show the version

Settings are environment variables, such as PORT=8080 loragrad:

${settings.join('\n')}`;
}

function fail(message: string): never {
  console.error(`${message}\nloragrad --help shows what there is.`);
  process.exit(2);
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean', short: 'v' },
      },
    });
  } catch (error) {
    return fail((error as Error).message);
  }
}

const { values, positionals } = readArguments();
const [command = 'serve', ...rest] = positionals;
if (values.help) console.log(help());
else if (values.version) console.log(packageVersion());
else if (command !== 'serve' && command !== 'worker')
  fail(`loragrad: there is no command ${command}.`);
else if (rest.length > 0)
  fail(`loragrad ${command} takes no ${rest[0]}; settings are environment variables.`);
else await import(command === 'serve' ? './main.js' : './worker.js');
