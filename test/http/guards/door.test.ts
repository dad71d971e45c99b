import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Door } from '../../../src/http/admission/door.js';

const stays = () => {};

/** A door with no place, until some are given. */
function doorWithRoom(room: number) {
  let places = 0;
  const door = new Door(room, () => places > 0);
  const told: string[] = [];
  const wait = (client: string, name: string, onGone: (callback: () => void) => void = stays) =>
    door.wait(client, onGone).then((mayEnter) => {
      if (mayEnter) places--;
      told.push(`${name} ${mayEnter ? 'enters' : 'goes'}`);
    });
  const give = async () => {
    places++;
    door.open();
    await null;
    await null;
  };
  return { door, told, wait, give };
}

test('places go to clients in turn, and to the first of each line', async () => {
  const { door, told, wait, give } = doorWithRoom(8);
  for (const name of ['a1', 'a2', 'a3', 'b1']) wait(name[0] as string, name);
  for (let k = 0; k < 4; k++) await give();
  assert.deepEqual(told, ['a1 enters', 'b1 enters', 'a2 enters', 'a3 enters']);
  assert.equal(door.waiting, 0);
  assert.equal(door.isClosed('a'), true, 'the places are taken');
});

test('where too many wait the last of the longest line goes', async () => {
  const { told, wait } = doorWithRoom(3);
  for (const name of ['b1', 'a1', 'a2']) wait(name[0] as string, name);
  const last = wait('b', 'b2');
  await null;
  await null;
  assert.deepEqual(told, ['a2 goes']);
  void last;
});

test('whose body is here is ahead of the others of its client', async () => {
  const { door, told, wait, give } = doorWithRoom(8);
  wait('a', 'a1');
  door.wait('a', stays, true).then(() => told.push('body'));
  await give();
  assert.deepEqual(told, ['body']);
});

test('nobody overtakes others of its client, and who has left is passed over', async () => {
  const { door, told, wait, give } = doorWithRoom(8);
  let leave = () => {};
  wait('a', 'a1', (callback) => {
    leave = callback;
  });
  wait('a', 'a2');
  leave();
  await give();
  assert.deepEqual(told, ['a1 goes', 'a2 enters']);
  assert.equal(door.waiting, 0);
});

test('who has waited for a moment may try: the refusal says what stands against it', async () => {
  const { told, wait } = doorWithRoom(8);
  await wait('a', 'a1');
  assert.deepEqual(told, ['a1 enters']);
});

test('under lasting overload no more wait than are expected to enter soon', async () => {
  let [now, places] = [0, 0];
  const door = new Door(
    1000,
    () => places > 0,
    () => now,
  );
  const wait = (client: string) =>
    door.wait(client, stays).then((mayEnter) => {
      if (mayEnter) places--;
    });
  const enters = async () => {
    now += 50;
    places++;
    door.open();
    await null;
    await null;
  };
  // A burst: nobody knows yet how fast it is.
  for (let k = 0; k < 40; k++) wait('a');
  assert.equal(door.isFull('a'), false);
  for (let k = 0; k < 32; k++) await enters();
  assert.equal(door.waiting, 8);
  assert.equal(door.isFull('a'), false, 'the ninth is to enter after 9 x 50 ms');
  wait('a');
  wait('a');
  assert.equal(door.isFull('a'), true, 'the eleventh would after 550 ms');
  assert.equal(await door.wait('a', stays), false);
  assert.equal(door.isFull('b'), false, 'another client has its own turn');
  now += 20_000;
  assert.equal(door.isFull('b'), true, 'nobody has entered for a long time');
});
