/** A generator of numbers that gives the same ones for the same seed: xorshift32. */
export function createRandom(seed) {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const edges = [
  0, 1, 2, 4, 7, 8, 0x0a, 0x20, 0x22, 0x2c, 0x3a, 0x3d, 0x5b, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xff,
];
const words = [0, 1, 0x7fff_ffff, 0x8000_0000, 0x8000_0028, 0xffff_ffff, 0x4000_0000, 0x0001_0000];
const maxBytes = 4_096;

/** One to eight small changes of one input, with pieces of another. */
export function mutate(bytes, other, random) {
  let out = Buffer.from(bytes);
  for (let left = 1 + random(8); left > 0; left -= 1) {
    const at = random(out.length + 1);
    const length = 1 + random(Math.min(32, out.length - at + 1));
    switch (random(9)) {
      case 0:
        if (at < out.length) out[at] ^= 1 << random(8);
        break;
      case 1:
        if (at < out.length) out[at] = random(256);
        break;
      case 2:
        if (at < out.length) out[at] = edges[random(edges.length)];
        break;
      case 3:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)]);
        break;
      case 4:
        out = Buffer.concat([
          out.subarray(0, at),
          Buffer.from([edges[random(edges.length)]]),
          out.subarray(at),
        ]);
        break;
      case 5:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at, at + length), out.subarray(at)]);
        break;
      case 6: {
        const from = random(other.length + 1);
        out = Buffer.concat([
          out.subarray(0, at),
          other.subarray(from, from + 1 + random(64)),
          out.subarray(at),
        ]);
        break;
      }
      case 7:
        if (at + 4 <= out.length) out.writeUInt32BE(words[random(words.length)], at);
        break;
      default:
        if (random(8) === 0) out = Buffer.concat([out, out]);
    }
  }
  return out.subarray(0, maxBytes);
}
