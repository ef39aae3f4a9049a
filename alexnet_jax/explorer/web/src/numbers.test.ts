import { expect, test } from "vitest";
import { covered, evidenceFor, GRID, squares } from "./evidence";
import { fromFloat16 } from "./float16";
import { ranked, shareOf, towerOf } from "./maps";
import { nearest } from "./nearest";
import type { Layer } from "./contract";

test("half precision", () => {
  const bits = Uint16Array.from([0x0000, 0x8000, 0x3c00, 0xc500, 0x7bff, 0x0001, 0x7c00, 0x3555]);
  expect([...fromFloat16(bits)]).toEqual([0, -0, 1, -5, 65504, 2 ** -24, Infinity, 0.333251953125]);
});

test("the nearest rows, nearest first", () => {
  const vectors = Float32Array.from([0, 0, 3, 4, 1, 0]);
  expect(nearest(Float32Array.from([0, 0]), vectors, 2)).toEqual([
    { index: 0, distance: 0 },
    { index: 2, distance: 1 },
  ]);
});

test("the towers' shares of a layer, the last of which may be smaller", () => {
  const layer = { features: 5 } as Layer;
  expect([0, 1].map((tower) => shareOf(layer, 2, tower))).toEqual([
    [0, 3],
    [3, 5],
  ]);
  expect([0, 2, 3, 4].map((unit) => towerOf(layer, 2, unit))).toEqual([0, 0, 1, 1]);
});

test("maps are ranked by their maximum or mean", () => {
  const tensor = { shape: [1, 3, 1, 2], data: Float32Array.from([0, 5, 3, 3, 9, 9]) };
  expect(ranked(tensor, [0, 2], "maximum").map(({ unit }) => unit)).toEqual([0, 1]);
  expect(ranked(tensor, [0, 2], "mean")).toEqual([
    { unit: 1, strength: 3 },
    { unit: 0, strength: 2.5 },
  ]);
});

test("squares cover the centre crop, and only that", () => {
  const [size, crop] = [32, 28];
  const all = squares(size, crop);
  expect(all.length).toBe(GRID ** 2);
  const copies = covered(new Uint8Array(size * size * 3), size, all, [9, 8.6, 7]);
  const touched = new Uint8Array(size * size);
  copies.forEach((value, i) => value && (touched[Math.floor((i % (size * size * 3)) / 3)] = value));
  touched.forEach((value, i) => {
    const inside = [i % size, Math.floor(i / size)].every((at) => at >= 2 && at < 30);
    expect(value > 0).toBe(inside);
  });
  expect([...copies.subarray((2 * size + 2) * 3, (2 * size + 3) * 3)]).toEqual([9, 9, 7]);
});

test("evidence is what the log probability loses", () => {
  const [value] = evidenceFor(1, Float32Array.from([0.5, 0.5]), [Float32Array.from([0.75, 0.25])]);
  expect(value).toBeCloseTo(Math.log(2));
});
