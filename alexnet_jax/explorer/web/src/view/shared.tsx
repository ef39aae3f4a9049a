/** What several parts of the page are made of. */

import { type ComponentChildren, createContext } from "preact";
import { useContext, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Explorer } from "../explorer";
import { fromDataUrl } from "../image";
import { type Colours, drawMap, type MapValues } from "../maps";
import type { Words } from "../words/en";

export interface Shown {
  words: Words;
  explorer: Explorer;
  colours: Colours; // of the theme, for what is drawn
  openUnit: (layer: string, unit: number) => void;
}

export const Context = createContext<Shown>(null!);
export const useShown = () => useContext(Context);

/** What a picture is to those who cannot see it; nothing if something else says it. */
const described = (label: string | undefined) =>
  label === undefined ? ({ "aria-hidden": true } as const) : ({ role: "img", "aria-label": label } as const);

/** A canvas of width x height pixels that `draw` fills, again whenever one of `inputs` or the theme changes. */
export function Canvas(props: {
  width: number;
  height: number;
  draw: (context: CanvasRenderingContext2D) => void;
  inputs: unknown[];
  label?: string;
  class?: string;
}) {
  const { colours } = useShown();
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    context.clearRect(0, 0, props.width, props.height);
    props.draw(context);
  }, [props.width, props.height, colours, ...props.inputs]);
  const { width, height, label } = props;
  return <canvas ref={canvas} class={props.class} width={width} height={height} {...described(label)} />;
}

/** Maps of one size in rows, without gaps: one canvas, since browsers take long to compose a hundred. */
export function MapsCanvas({ maps, columns, label }: { maps: MapValues[]; columns: number; label?: string }) {
  const { colours } = useShown();
  const [{ width, values }] = maps;
  const height = values.length / width;
  const draw = (context: CanvasRenderingContext2D) => {
    const picture = context.createImageData(context.canvas.width, context.canvas.height);
    maps.forEach((map, i) => drawMap(picture, (i % columns) * width, Math.floor(i / columns) * height, map, colours));
    context.putImageData(picture, 0, 0);
  };
  const size = { width: columns * width, height: Math.ceil(maps.length / columns) * height };
  return <Canvas class="map" {...size} inputs={[maps]} draw={draw} {...(label === undefined ? {} : { label })} />;
}

/** One picture of a sprite of `rows` x `columns`. */
export function Sprite(props: {
  url: string;
  row: number;
  column: number;
  rows: number;
  columns: number;
  label?: string;
}) {
  const { url, row, column, rows, columns, label } = props;
  const share = (at: number, count: number) => (count > 1 ? `${(100 * at) / (count - 1)}%` : "0");
  const style = {
    backgroundImage: `url(${url})`,
    backgroundSize: `${100 * columns}% ${100 * rows}%`,
    backgroundPosition: `${share(column, columns)} ${share(row, rows)}`,
  };
  return <span class="sprite" style={style} {...described(label)} />;
}

const urls = new Map<string, string>();

/** A short URL of a picture that many elements show. */
export function blobUrl(dataUrl: string): string {
  if (!urls.has(dataUrl)) urls.set(dataUrl, URL.createObjectURL(fromDataUrl(dataUrl)));
  return urls.get(dataUrl)!;
}

/** Whether the page is as narrow as a phone: the same width as in style.css. */
export function useNarrow(): boolean {
  const query = matchMedia("(max-width: 60rem)");
  const [narrow, setNarrow] = useState(query.matches);
  useEffect(() => {
    const changed = () => setNarrow(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  return narrow;
}

export interface Tile {
  key: number;
  label: string;
  picture?: ComponentChildren;
  open: () => void;
}

/** Buttons with pictures, their own or parts of one behind them. Tab reaches one of them, the arrow keys the others. */
export function Tiles(props: { label: string; columns: number; tiles: Tile[]; children?: ComponentChildren }) {
  const { label, columns, tiles, children } = props;
  const [current, setCurrent] = useState(0);
  const list = useRef<HTMLDivElement>(null);
  const onKeyDown = (event: KeyboardEvent) => {
    const steps: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const ends: Record<string, number> = { Home: 0, End: tiles.length - 1 };
    const next = ends[event.key] ?? current + (steps[event.key] ?? NaN);
    if (!(next >= 0 && next < tiles.length)) return;
    event.preventDefault();
    setCurrent(next);
    list.current!.querySelectorAll("button")[next].focus();
  };
  const reachable = Math.min(current, tiles.length - 1);
  return (
    <div
      class={`tiles${children ? " seamless" : ""}`}
      role="toolbar"
      aria-label={label}
      style={{ "--columns": columns }}
      ref={list}
      onKeyDown={onKeyDown}
    >
      {children}
      {tiles.map(({ key, label, picture, open }, i) => (
        <button
          key={key}
          type="button"
          aria-label={label}
          title={label}
          tabIndex={i === reachable ? 0 : -1}
          onFocus={() => setCurrent(i)}
          onClick={open}
        >
          {picture}
        </button>
      ))}
    </div>
  );
}

export function Switch(props: {
  label: string;
  on: boolean;
  change: (on: boolean) => void;
  children?: ComponentChildren;
}) {
  return (
    <button
      type="button"
      class="switch"
      role="switch"
      aria-checked={props.on}
      aria-label={props.label}
      onClick={() => props.change(!props.on)}
    >
      <span class="knob" />
      {props.children}
    </button>
  );
}

/** Radio buttons that look like words in a line. */
export function Choice<T extends string>(props: {
  name: string;
  label: string;
  options: { value: T; text: string }[];
  value: T;
  change: (value: T) => void;
}) {
  return (
    <fieldset class="choice">
      <legend class="unseen">{props.label}</legend>
      {props.options.map(({ value, text }) => (
        <label key={value}>
          <input
            type="radio"
            class="unseen"
            name={props.name}
            checked={value === props.value}
            onChange={() => props.change(value)}
          />
          <span>{text}</span>
        </label>
      ))}
    </fieldset>
  );
}
