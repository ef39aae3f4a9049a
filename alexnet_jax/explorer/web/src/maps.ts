/** Maps: which belong to a tower, which are strongest, and how they are drawn. */

import type { Layer } from "./contract";
import type { Tensor } from "./runtime/messages";

export type Measure = "maximum" | "mean";

/** Indices of the first feature of a tower and of the first after it. */
export function shareOf(layer: Layer, towers: number, tower: number): [number, number] {
  const share = Math.ceil(layer.features / towers);
  return [tower * share, Math.min((tower + 1) * share, layer.features)];
}

export const towerOf = (layer: Layer, towers: number, unit: number) => Math.floor(unit / Math.ceil(layer.features / towers));

/** A feature's values: a map of height * width, or one number. */
export function valuesOf({ shape, data }: Tensor, unit: number): Float32Array {
  const length = shape.slice(2).reduce((product, side) => product * side, 1);
  return data.subarray(unit * length, (unit + 1) * length);
}

export function measured(values: Float32Array, measure: Measure): number {
  return measure === "mean"
    ? values.reduce((sum, value) => sum + value, 0) / values.length
    : values.reduce((most, value) => Math.max(most, value), -Infinity);
}

export interface Ranked {
  unit: number;
  strength: number;
}

/** The units from `start` up to `end`, strongest first. */
export function ranked(tensor: Tensor, [start, end]: [number, number], measure: Measure): Ranked[] {
  return Array.from({ length: end - start }, (_, i) => start + i)
    .map((unit) => ({ unit, strength: measured(valuesOf(tensor, unit), measure) }))
    .sort((a, b) => b.strength - a.strength);
}

/** The largest distance from zero: what is drawn in full colour. */
export const scaleOf = ({ data }: Tensor) => data.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);

export type Colour = readonly [number, number, number];

/** The value of a CSS variable like #2f5d8a. */
export function cssColour(name: string): Colour {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)) as unknown as Colour;
}

/** Values as pixels: the stronger, the more opaque; what is negative in the second colour. */
export function coloured(values: Float32Array, width: number, scale: number, positive: Colour, negative: Colour): ImageData {
  const picture = new ImageData(width, values.length / width);
  values.forEach((value, i) => {
    picture.data.set(value < 0 ? negative : positive, 4 * i);
    picture.data[4 * i + 3] = 255 * Math.min(Math.abs(value) / scale, 1) ** 0.7; // so that weak responses are seen
  });
  return picture;
}
