import { expect, test } from "vitest";
import { toSquare } from "./resample";
import cases from "./resample.test.json";

/** Pixels as tests/test_explorer_page.py makes them: a multiplicative hash of their place. */
function rgba(side: number): Uint8ClampedArray {
  return Uint8ClampedArray.from({ length: side * side * 4 }, (_, i) =>
    i % 4 === 3 ? 255 : Math.imul(Math.floor(i / 4) * 3 + (i % 4), 2654435761) >>> 24,
  );
}

test.each(cases)("$side pixels scaled to $size are cv2's", ({ side, size, scaled }) => {
  const pixels = rgba(side);
  const read = (top: number, count: number) => pixels.subarray(top * side * 4, (top + count) * side * 4);
  const expected = Uint8Array.from(atob(scaled), (c) => c.charCodeAt(0));
  const differences = toSquare(read, side, size).map((value, i) => Math.abs(value - expected[i]));
  if (side >= size) expect(Math.max(...differences)).toBe(0);
  expect(Math.max(...differences)).toBeLessThanOrEqual(1); // cv2 enlarges in float32
  expect(differences.filter((d) => d > 0).length).toBeLessThan(differences.length / 500);
});

test("only the rows that are needed are read", () => {
  const asked: number[] = [];
  toSquare((_, count) => (asked.push(count), new Uint8ClampedArray(1000 * count * 4)), 1000, 300);
  expect(asked.length).toBe(300);
  expect(Math.max(...asked)).toBeLessThanOrEqual(5);
});
