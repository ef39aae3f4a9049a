/** A square image scaled as cv2.resize scales it: INTER_AREA down and INTER_CUBIC up, in its arithmetic. */

/** RGBA of `count` rows of a square image from row `top`, as getImageData returns them. */
export type ReadRows = (top: number, count: number) => Uint8ClampedArray;

const { fround } = Math;

/** The pixels that `alexnet prepare` would store: [size, size, 3]. A row is read when it is needed. */
export function toSquare(read: ReadRows, side: number, size: number): Uint8Array {
  if (side <= size) return cubic(read, side, size);
  return side % size === 0 ? integerArea(read, side, size) : area(read, side, size);
}

/** The nearest integer, the even one of two. */
function round(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

function integerArea(read: ReadRows, side: number, size: number): Uint8Array {
  const factor = side / size;
  const share = fround(1 / (factor * factor));
  const out = new Uint8Array(size * size * 3);
  const sums = new Uint32Array(size * 3);
  for (let y = 0; y < size; y++) {
    const rows = read(y * factor, factor);
    sums.fill(0);
    for (let row = 0, at = 0; row < factor; row++) {
      for (let x = 0; x < side; x++, at += 4) {
        const to = Math.floor(x / factor) * 3;
        for (let channel = 0; channel < 3; channel++) sums[to + channel] += rows[at + channel];
      }
    }
    // Of two by two pixels, cv2 rounds a half up.
    sums.forEach((sum, i) => (out[y * size * 3 + i] = factor === 2 ? (sum + 2) >> 2 : round(fround(sum * share))));
  }
  return out;
}

interface Part {
  from: number; // pixel of the source
  weight: number;
}

/** The parts of source pixels that make up each pixel of the result, along one side. */
function parts(side: number, size: number): Part[][] {
  const scale = 1 / (size / side);
  return Array.from({ length: size }, (_, to) => {
    const start = to * scale;
    const end = start + scale;
    const width = Math.min(scale, side - start);
    const last = Math.min(Math.floor(end), side - 1);
    const first = Math.min(Math.ceil(start), last);
    const found: Part[] = [];
    if (first - start > 1e-3) found.push({ from: first - 1, weight: fround((first - start) / width) });
    for (let from = first; from < last; from++) found.push({ from, weight: fround(1 / width) });
    if (end - last > 1e-3) found.push({ from: last, weight: fround(Math.min(end - last, 1, width) / width) });
    return found;
  });
}

function area(read: ReadRows, side: number, size: number): Uint8Array {
  const table = parts(side, size);
  const out = new Uint8Array(size * size * 3);
  const row = new Float32Array(size * 3);
  const sums = new Float32Array(size * 3);
  table.forEach((vertical, y) => {
    const top = vertical[0].from;
    const rows = read(top, vertical[vertical.length - 1].from - top + 1);
    sums.fill(0);
    for (const { from, weight } of vertical) {
      row.fill(0);
      const start = (from - top) * side * 4;
      for (let x = 0; x < size; x++) {
        for (const part of table[x]) {
          const at = start + part.from * 4;
          for (let channel = 0; channel < 3; channel++)
            row[x * 3 + channel] += fround(rows[at + channel] * part.weight);
        }
      }
      for (let i = 0; i < row.length; i++) sums[i] += fround(weight * row[i]);
    }
    sums.forEach((sum, i) => (out[y * size * 3 + i] = round(sum)));
  });
  return out;
}

interface Taps {
  from: number[]; // four pixels of the source
  weights: number[];
}

/** Keys's cubic, with cv2's parameter of -3/4. */
function taps(side: number, size: number): Taps[] {
  const near = (d: number) => (1.25 * d - 2.25) * d * d + 1; // at a distance of up to 1
  const far = (d: number) => -0.75 * (((d - 5) * d + 8) * d - 4); // and up to 2
  return Array.from({ length: size }, (_, to) => {
    const centre = ((to + 0.5) * side) / size - 0.5;
    const first = Math.floor(centre);
    const x = centre - first;
    return {
      from: [-1, 0, 1, 2].map((offset) => Math.min(Math.max(first + offset, 0), side - 1)),
      weights: [far(1 + x), near(x), near(1 - x), far(2 - x)],
    };
  });
}

function cubic(read: ReadRows, side: number, size: number): Uint8Array {
  const table = taps(side, size);
  const pixels = read(0, side);
  const wide = new Float64Array(side * size * 3); // scaled along x
  for (let y = 0; y < side; y++) {
    table.forEach(({ from, weights }, x) => {
      for (let channel = 0; channel < 3; channel++) {
        const values = from.map((at) => pixels[(y * side + at) * 4 + channel]);
        wide[(y * size + x) * 3 + channel] = weighted(values, weights);
      }
    });
  }
  const out = new Uint8Array(size * size * 3);
  table.forEach(({ from, weights }, y) => {
    for (let i = 0; i < size * 3; i++) {
      const sum = weighted(
        from.map((at) => wide[at * size * 3 + i]),
        weights,
      );
      out[y * size * 3 + i] = Math.min(Math.max(round(sum), 0), 255);
    }
  });
  return out;
}

const weighted = (values: number[], weights: number[]) => values.reduce((sum, value, i) => sum + value * weights[i], 0);
