/** Maps: which belong to a tower, which are strongest, and how they are drawn. */

import type { Layer } from "./contract";
import type { Tensor } from "./runtime/messages";

export type Measure = "maximum" | "mean";

/** Indices of the first feature of a tower and of the first after it. */
export function shareOf(layer: Layer, towers: number, tower: number): [number, number] {
  const share = Math.ceil(layer.features / towers);
  return [tower * share, Math.min((tower + 1) * share, layer.features)];
}

export const towerOf = (layer: Layer, towers: number, unit: number) =>
  Math.floor(unit / Math.ceil(layer.features / towers));

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
export const scaleOf = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);

export interface MapValues {
  values: Float32Array;
  width: number;
  scale: number; // full colour
  tower: number;
}

export type Colour = readonly [number, number, number];

export interface Colours {
  ink: Colour;
  tile: Colour; // where there is no response
  towers: Colour[];
  negative: Colour;
  for: Colour; // evidence
  against: Colour;
}

const HUES = 4; // of towers in the style sheet

/** Which of them a tower has: with more towers than hues, some share one. */
export const hue = (tower: number): number => tower % HUES;

/** The colours of the style sheet, in its present theme. */
export function readColours(): Colours {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string): Colour => {
    const hex = style.getPropertyValue(`--${name}`).trim(); // like #2b5c8f
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)) as unknown as Colour;
  };
  const towers = Array.from({ length: HUES }, (_, hue) => read(`tower-${hue}`));
  return {
    ink: read("ink"),
    tile: read("tile"),
    towers,
    negative: read("negative"),
    for: read("for"),
    against: read("against"),
  };
}

/** How much of its colour a value gets: more than its share of `scale`, so that weak responses are seen. */
const strength = (value: number, scale: number) => Math.min(Math.abs(value) / scale, 1) ** 0.7;

/** Draw a map into a picture, from (left, top): the stronger, the more of the tower's colour. */
export function drawMap(picture: ImageData, left: number, top: number, map: MapValues, colours: Colours): void {
  const { values, width, scale, tower } = map;
  const [ground, positive, negative] = [colours.tile, colours.towers[hue(tower)], colours.negative];
  values.forEach((value, i) => {
    const at = 4 * ((top + Math.floor(i / width)) * picture.width + left + (i % width));
    const share = strength(value, scale);
    const full = value < 0 ? negative : positive;
    for (let channel = 0; channel < 3; channel++) {
      picture.data[at + channel] = ground[channel] + share * (full[channel] - ground[channel]);
    }
    picture.data[at + 3] = 255;
  });
}

/** A map to lay over something else: the stronger, the more opaque; clear where it is not positive. */
export function transparentMap({ values, width, scale, tower }: MapValues, { towers }: Colours): ImageData {
  const picture = new ImageData(width, values.length / width);
  values.forEach((value, i) => {
    picture.data.set(towers[hue(tower)], 4 * i);
    picture.data[4 * i + 3] = value > 0 ? 255 * strength(value, scale) : 0;
  });
  return picture;
}
