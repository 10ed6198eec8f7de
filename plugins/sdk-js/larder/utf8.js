// UTF-8, which QuickJS has no TextEncoder for. Owns nothing else.

/** Text to bytes and back. A lone surrogate, or a byte that is no UTF-8, becomes U+FFFD. */
export const utf8 = {
  /** @param {string} text @returns {Uint8Array} */
  encode(text) {
    if (typeof TextEncoder !== "undefined") {
      return new TextEncoder().encode(text);
    }
    return encode(text);
  },

  /** @param {Uint8Array} bytes @returns {string} */
  decode(bytes) {
    if (typeof TextDecoder !== "undefined") {
      return new TextDecoder().decode(bytes);
    }
    return decode(bytes);
  },
};

const REPLACEMENT = 0xfffd;

export function encode(text) {
  // At most three bytes for each unit of UTF-16: a pair is four bytes for two.
  const bytes = new Uint8Array(text.length * 3);
  let end = 0;
  for (const character of text) {
    let point = character.codePointAt(0);
    if (point >= 0xd800 && point <= 0xdfff) {
      point = REPLACEMENT;
    }
    if (point < 0x80) {
      bytes[end++] = point;
      continue;
    }
    const more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    bytes[end++] = [0, 0xc0, 0xe0, 0xf0][more] | (point >> (6 * more));
    for (let at = more - 1; at >= 0; at--) {
      bytes[end++] = 0x80 | ((point >> (6 * at)) & 0x3f);
    }
  }
  return bytes.slice(0, end);
}

export function decode(bytes) {
  const pieces = [];
  let at = 0;
  while (at < bytes.length) {
    const first = bytes[at++];
    if (first < 0x80) {
      pieces.push(first);
      continue;
    }
    const more = first >= 0xf0 && first < 0xf5 ? 3 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xc2 && first < 0xe0 ? 1 : 0;
    let point = first & (0x3f >> more);
    let read = 0;
    while (read < more && (bytes[at + read] & 0xc0) === 0x80) {
      point = (point << 6) | (bytes[at + read++] & 0x3f);
    }
    const least = [Infinity, 0x80, 0x800, 0x10000][more];
    const valid = read === more && point >= least && point <= 0x10ffff && !(point >= 0xd800 && point <= 0xdfff);
    pieces.push(valid ? point : REPLACEMENT);
    at += valid ? more : 0;
  }
  let text = "";
  // In slices: a call has room for so many arguments only.
  for (let from = 0; from < pieces.length; from += 4096) {
    text += String.fromCodePoint(...pieces.slice(from, from + 4096));
  }
  return text;
}
