/** Headers that weigh alternatives (RFC 9110, section 12.5): Accept and Accept-Encoding. */

interface Preference {
  /** A media range, a content coding or '*', in lower case and without parameters. */
  readonly name: string;
  /** Quality value, from 0 (refused) to 1. */
  readonly weight: number;
}

/** Up to the next separator; one inside a quoted string does not count. */
const ELEMENT = /(?:[^",]|"(?:[^"\\]|\\.)*"?)+/g;
const PARAMETER = /(?:[^";]|"(?:[^"\\]|\\.)*"?)+/g;
const WEIGHT = /^q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/i;
/** Nobody means more alternatives than this; the header is as long as the client likes. */
const MOST = 64;

/**
 * The elements of such a header. Parameters other than the weight are dropped: what the service answers
 * in has none, but for the charset that JSON is always in. A weight that is no number counts as 1.
 */
export function preferences(header: string): Preference[] {
  return (header.match(ELEMENT) ?? [])
    .slice(0, MOST)
    .map((element) => {
      const [name = '', ...parameters] = (element.match(PARAMETER) ?? []).map((part) =>
        part.trim(),
      );
      const weight = parameters.map((part) => WEIGHT.exec(part)?.[1]).find(Boolean) ?? '1';
      return { name: name.toLowerCase(), weight: Number(weight) };
    })
    .filter(({ name }) => name !== '');
}

/** How much a media type is wanted: what the most specific range that covers it says. */
function weightOfType(type: string, ranges: readonly Preference[]): number {
  for (const range of [type, `${type.split('/')[0]}/*`, '*/*']) {
    const found = ranges.filter(({ name }) => name === range);
    if (found.length > 0) return Math.max(...found.map(({ weight }) => weight));
  }
  return 0;
}

function weightOfCoding(coding: string, codings: readonly Preference[]): number {
  for (const name of [coding, '*']) {
    const found = codings.find((preference) => preference.name === name);
    if (found) return found.weight;
  }
  // What is not named may be sent only when it is no coding at all.
  return coding === 'identity' ? 0.001 : 0;
}

/** The first of the offers with the highest weight above 0; null: none is wanted. */
function best<Offer extends string>(
  offers: readonly Offer[],
  weightOf: (offer: Offer) => number,
): Offer | null {
  let chosen: Offer | null = null;
  let highest = 0;
  for (const offer of offers) {
    const weight = weightOf(offer);
    if (weight > highest) [chosen, highest] = [offer, weight];
  }
  return chosen;
}

/** @param offers media types in lower case, the service's favourite first. */
export function chooseType<Offer extends string>(
  header: string | undefined,
  offers: readonly Offer[],
): Offer | null {
  const ranges = preferences(header ?? '');
  if (ranges.length === 0) return offers[0];
  return best(offers, (offer) => weightOfType(offer, ranges));
}

/** @param offers codings in lower case, the service's favourite first; 'identity' among them. */
export function chooseCoding<Offer extends string>(
  header: string | undefined,
  offers: readonly Offer[],
): Offer | null {
  if (header === undefined)
    return offers.includes('identity' as Offer) ? ('identity' as Offer) : null;
  const codings = preferences(header);
  return best(offers, (offer) => weightOfCoding(offer, codings));
}
