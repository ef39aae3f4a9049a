/** Evidence by occlusion: how sure the network stays of a class if a square of the image is covered. */

export const GRID = 7; // squares along each side
export const SHARE = 0.25; // side of a square, of the crop's

interface Square {
  left: number;
  top: number;
  side: number;
}

/** The squares of stored images' centre crops, row by row. */
export function squares(size: number, crop: number): Square[] {
  const side = Math.max(1, Math.round(SHARE * crop));
  const at = (i: number) => Math.floor((size - crop) / 2) + Math.round((i * (crop - side)) / (GRID - 1));
  return Array.from({ length: GRID ** 2 }, (_, i) => ({ left: at(i % GRID), top: at(Math.floor(i / GRID)), side }));
}

/** Copies of stored pixels [size, size, 3], one for each square, which `colour` covers. */
export function covered(pixels: Uint8Array, size: number, covers: Square[], colour: readonly number[]): Uint8Array {
  const mean = colour.map(Math.round);
  const copies = new Uint8Array(covers.length * pixels.length);
  covers.forEach(({ left, top, side }, i) => {
    const copy = copies.subarray(i * pixels.length, (i + 1) * pixels.length);
    copy.set(pixels);
    for (let y = top; y < top + side; y++) {
      for (let x = left; x < left + side; x++) copy.set(mean, (y * size + x) * 3);
    }
  });
  return copies;
}

/** How far the log probability of a class falls: `rows` has the probabilities of the squares computed so far, nats. */
export function evidenceFor(label: number, uncovered: Float32Array, rows: Float32Array[]): number[] {
  const log = (probabilities: Float32Array) => Math.log(Math.max(probabilities[label], 1e-30));
  return rows.map((row) => log(uncovered) - log(row));
}
