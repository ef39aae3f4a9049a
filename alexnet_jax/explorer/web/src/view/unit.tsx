/** One map: where in the image it fires, its kernels, and what it responds to most. */

import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import type { Layer, Units } from "../contract";
import { hue, measured, ranked, scaleOf, shareOf, towerOf, transparentMap, valuesOf } from "../maps";
import type { Tensor } from "../runtime/messages";
import { useFile } from "./files";
import { drawCrop } from "./picture";
import { blobUrl, Canvas, MapsCanvas, Sprite, Tiles, useShown } from "./shared";

export interface Chosen {
  layer: string;
  unit: number;
}

export function UnitDialog({ chosen, close }: { chosen: Chosen | null; close: () => void }) {
  const { words } = useShown();
  const dialog = useRef<HTMLDialogElement>(null);
  const isOpen = chosen !== null;
  useLayoutEffect(() => {
    if (isOpen) dialog.current!.showModal();
  }, [isOpen]);
  const onClick = ({ target }: MouseEvent) => target === dialog.current && dialog.current!.close(); // beside it
  return (
    <dialog ref={dialog} class="unit" aria-labelledby="unit" onClose={close} onClick={onClick}>
      {chosen && (
        <div class="inside">
          <Unit {...chosen} />
          <button type="button" class="link close" onClick={() => dialog.current!.close()}>
            {words.close}
          </button>
        </div>
      )}
    </dialog>
  );
}

function Unit({ layer: name, unit }: Chosen) {
  const { words, explorer } = useShown();
  const { description, answer } = explorer;
  const at = description.layers.findIndex((layer) => layer.name === name);
  const layer = description.layers[at];
  const before: Layer | undefined = description.layers[at - 1];
  const tower = towerOf(layer, description.towers, unit);
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    // The button that led here may be gone, and the focus with it.
    if (!heading.current!.closest("dialog")!.querySelector(":focus")) heading.current!.focus();
  }, [name, unit]);
  const units = useFile<Units>(description.units > 0 ? `units/${name}` : null);
  const outputs = layer.stages.map((stage) => `${name}.${stage.name}`);
  useEffect(() => void explorer.need(outputs), [name, answer?.outputs]);
  const newest = description.steps[description.steps.length - 1].step;
  return (
    <>
      <header>
        <h2 id="unit" ref={heading} tabIndex={-1} data-tower={hue(tower)}>
          {words.unit(name, unit)}
        </h2>
        <Rank layer={layer} unit={unit} tower={tower} />
      </header>
      <div class="columns">
        <Fires layer={layer} unit={unit} tower={tower} />
        <div>
          {answer && (
            <section class="stages">
              <h3>{words.throughStages}</h3>
              <ul>
                {layer.stages.map((stage) => {
                  const tensor = answer.outputs[`${name}.${stage.name}`];
                  if (!tensor) return null;
                  const values = valuesOf(tensor, unit);
                  return (
                    <li key={stage.name}>
                      <MapsCanvas maps={[{ values, width: stage.width, scale: scaleOf(values), tower }]} columns={1} />
                      {words.stage(stage)}
                    </li>
                  );
                })}
              </ul>
            </section>
          )}
          {units && <Wiring units={units} unit={unit} before={before} />}
          {units && <Patches units={units} unit={unit} />}
        </div>
      </div>
      {units && explorer.step !== newest && <p class="note">{words.newestOnly(newest)}</p>}
    </>
  );
}

/** How strong this map is among those of its tower, and the way to the next ones. */
function Rank({ layer, unit, tower }: { layer: Layer; unit: number; tower: number }) {
  const { words, explorer, openUnit } = useShown();
  const { towers } = explorer.description;
  const tensor = explorer.answer?.outputs[`${layer.name}.${layer.stages[layer.stages.length - 1].name}`];
  const order = useMemo(
    () => (tensor ? ranked(tensor, shareOf(layer, towers, tower), "maximum") : []),
    [tensor, layer, tower],
  );
  if (!tensor) return null;
  const rank = order.findIndex((each) => each.unit === unit);
  const values = valuesOf(tensor, unit);
  const step = (by: number, text: string) => (
    <button
      type="button"
      class="link"
      disabled={!order[rank + by]}
      onClick={() => openUnit(layer.name, order[rank + by].unit)}
    >
      {text}
    </button>
  );
  return (
    <p>
      {words.rank(rank + 1, order.length, tower, measured(values, "maximum"), measured(values, "mean"))}{" "}
      {step(-1, words.previousUnit)} {step(1, words.nextUnit)}
    </p>
  );
}

const ENLARGED = 448; // pixels of the large picture

/** The image in grey, and over it the map in colour at the places that it is about. */
function Fires({ layer, unit, tower }: { layer: Layer; unit: number; tower: number }) {
  const { words, explorer, colours } = useShown();
  const { answer, description } = explorer;
  const { size, crop } = description.image;
  const [first, second] = layer.stages;
  const stage = second?.name === "activation" ? second : first; // as many values as the convolution has
  const tensor: Tensor | undefined = answer?.outputs[`${layer.name}.${stage.name}`];
  if (!answer || !tensor) return null;
  const values = valuesOf(tensor, unit);
  const draw = (context: CanvasRenderingContext2D) => {
    const small = document.createElement("canvas");
    small.width = small.height = crop;
    const pen = small.getContext("2d")!;
    drawCrop(pen, answer.stored, size, crop);
    pen.globalCompositeOperation = "saturation"; // that of black, which makes the image grey
    pen.fillRect(0, 0, crop, crop);
    const zoom = ENLARGED / crop;
    context.globalAlpha = 0.55;
    context.imageSmoothingEnabled = crop > 100;
    context.drawImage(small, 0, 0, ENLARGED, ENLARGED);
    context.globalAlpha = 1;
    context.imageSmoothingEnabled = true;
    small.width = stage.width;
    small.height = stage.height;
    const map = { values, width: stage.width, scale: Math.max(...values, 1e-12), tower };
    pen.putImageData(transparentMap(map, colours), 0, 0);
    const { start, stride, size: field } = layer.field;
    const left = start + (field - stride) / 2; // each value covers a stride around the centre of what it sees
    context.globalAlpha = 0.8;
    context.drawImage(small, left * zoom, left * zoom, stage.width * stride * zoom, stage.height * stride * zoom);
    context.globalAlpha = 1;
    const strongest = values.indexOf(Math.max(...values));
    const x = start + stride * (strongest % stage.width);
    const y = start + stride * Math.floor(strongest / stage.width);
    const [x0, y0] = [Math.max(x, 0), Math.max(y, 0)];
    const [x1, y1] = [Math.min(x + field, crop), Math.min(y + field, crop)];
    context.lineWidth = 2;
    context.strokeStyle = `rgb(${colours.ink})`;
    context.strokeRect(x0 * zoom + 1, y0 * zoom + 1, (x1 - x0) * zoom - 2, (y1 - y0) * zoom - 2);
  };
  return (
    <figure class="fires">
      <Canvas
        width={ENLARGED}
        height={ENLARGED}
        inputs={[values.buffer, unit, layer, answer]}
        draw={draw}
        label={words.overImage}
      />
      <figcaption class="note">{words.overImage}</figcaption>
    </figure>
  );
}

/** The unit's kernels: of conv1 one in colour, of others those for the maps before that it weighs most. */
function Wiring({ units, unit, before }: { units: Units; unit: number; before: Layer | undefined }) {
  const { words, explorer, openUnit } = useShown();
  const { towers } = explorer.description;
  const inputs = units.inputs[unit] ?? [];
  const columns = Math.max(1, ...units.inputs.map((each) => each.length));
  const sprite = { url: blobUrl(units.kernels), row: unit, rows: units.responses.length, columns };
  if (!before || inputs.length === 0) {
    return (
      <section class="wiring">
        <h3>{words.itsKernel}</h3>
        <div class="kernel">
          <Sprite {...sprite} column={0} label={words.kernel(unit)} />
        </div>
      </section>
    );
  }
  const from = inputs.map((input) => towerOf(before, towers, input));
  const counts = Array.from({ length: towers }, (_, tower) => from.filter((each) => each === tower).length);
  const tiles = inputs.map((input, column) => ({
    key: input,
    label: words.unit(before.name, input),
    picture: (
      <span data-tower={hue(from[column])}>
        <Sprite {...sprite} column={column} />
      </span>
    ),
    open: () => openUnit(before.name, input),
  }));
  return (
    <section class="wiring">
      <h3>{words.itsInputs(before.name)}</h3>
      {towers > 1 && <p class="note">{words.inputTowers(counts)}</p>}
      <Tiles label={words.itsInputs(before.name)} columns={6} tiles={tiles} />
    </section>
  );
}

function Patches({ units, unit }: { units: Units; unit: number }) {
  const { words, explorer } = useShown();
  const { units: columns, searched } = explorer.description;
  return (
    <section class="patches">
      <h3>{words.patches(searched)}</h3>
      <ul class={units.side < 100 ? "coarse" : ""}>
        {units.responses[unit].map((response, column) => (
          <li key={column}>
            <Sprite
              url={blobUrl(units.patches)}
              row={unit}
              column={column}
              rows={units.responses.length}
              columns={columns}
              label={words.patch(response)}
            />
          </li>
        ))}
      </ul>
    </section>
  );
}
