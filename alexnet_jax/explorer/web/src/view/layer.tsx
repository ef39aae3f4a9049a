/** A layer: its strongest maps in each tower, at any of its stages, and what happens in it. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Layer, Stage } from "../contract";
import type { Answer } from "../explorer";
import { hue, type Measure, ranked, scaleOf, shareOf, valuesOf } from "../maps";
import type { Tensor } from "../runtime/messages";
import { Choice, MapsCanvas, Tiles, useNarrow, useShown } from "./shared";

/** Sections of the paper about what happens between layers and within them. */
const SECTIONS: Record<string, string> = {
  exchange: "3.2",
  activation: "3.1",
  lrn: "3.3",
  pool: "3.4",
  dropout: "4.2",
};

export function LayerView({ layer, measure, answer }: { layer: Layer; measure: Measure; answer: Answer | null }) {
  const { words, explorer } = useShown();
  const { description } = explorer;
  const [index, setIndex] = useState(layer.stages.length - 1);
  const [open, setOpen] = useState(false);
  const [all, setAll] = useState(false);
  const stage = layer.stages[index];
  const output = `${layer.name}.${stage.name}`;
  useEffect(() => void explorer.need([output]), [output, answer?.outputs]);
  const tensor = answer?.outputs[output];
  const share = Math.ceil(layer.features / description.towers);
  const narrow = useNarrow();
  const columns = Math.round((narrow ? 8 : 14) / description.towers);
  const few = columns * Math.max(2, Math.round((narrow ? 12 : 14) / columns)); // maps of each tower shown at first
  return (
    <section class="layer" aria-labelledby={layer.name}>
      <header>
        <h3 id={layer.name}>
          <button
            type="button"
            aria-expanded={open}
            title={words.whatHappens(layer.name)}
            onClick={() => setOpen(!open)}
          >
            {layer.name}
          </button>
        </h3>
        <p>{words.shape(layer, stage)}</p>
        {layer.stages.length > 1 && (
          <Choice
            name={`${layer.name}.stage`}
            label={words.stages(layer.name)}
            value={String(index)}
            change={(value) => setIndex(Number(value))}
            options={layer.stages.map((each, i) => ({ value: String(i), text: words.stage(each) }))}
          />
        )}
      </header>
      {open && (
        <div class="about">
          <p>{words.about(layer, stage, description.towers)}</p>
          <References layer={layer} stage={stage} />
        </div>
      )}
      {answer && tensor && (
        <div class="towers">
          {Array.from({ length: description.towers }, (_, tower) => (
            <div class="tower" key={tower} data-tower={hue(tower)}>
              {layer.kind === "conv" && (
                <Maps {...{ layer, tensor, tower, measure, columns, width: stage.width, most: all ? share : few }} />
              )}
              {layer.kind === "dense" && <Units {...{ layer, tensor, tower }} />}
              {layer.kind === "head" && <Classes {...{ layer, tower }} probabilities={answer.probabilities} />}
            </div>
          ))}
        </div>
      )}
      {tensor && layer.kind === "conv" && share > few && (
        <button type="button" class="link more" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? words.showFewer : words.showAll(layer.features)}
        </button>
      )}
    </section>
  );
}

/** The sections of the paper and the lines of code that a stage is described in. */
function References({ layer, stage }: { layer: Layer; stage: Stage }) {
  const { words, explorer } = useShown();
  const { links, sources } = explorer.description;
  const isLinked = stage.name === "response" && links.includes(layer.name);
  const operations = [stage.name, ...(isLinked ? ["exchange"] : []), ...(stage.text.dropout ? ["dropout"] : [])];
  const sections = operations.map((name) => (name === "response" ? layer.section : SECTIONS[name])).filter(Boolean);
  const lines = operations.map((name) => sources[name === "response" ? layer.kind : name]).filter(Boolean);
  return (
    <p class="note">
      {sections.length > 0 && `${words.sections(sections.sort())} · `}
      <code>{lines.join(", ")}</code>
    </p>
  );
}

interface OfTower {
  layer: Layer;
  tensor: Tensor;
  tower: number;
}

function Maps(props: OfTower & { measure: Measure; columns: number; width: number; most: number }) {
  const { layer, tensor, tower, measure, columns, width, most } = props;
  const { words, explorer, openUnit } = useShown();
  const { towers } = explorer.description;
  const order = useMemo(() => ranked(tensor, shareOf(layer, towers, tower), measure), [tensor, measure]);
  const scale = useMemo(() => scaleOf(tensor.data), [tensor]);
  const tiles = order.slice(0, most).map(({ unit, strength }) => ({
    key: unit,
    label: words.mapName(unit, strength),
    open: () => openUnit(layer.name, unit),
  }));
  const maps = useMemo(
    () => order.slice(0, most).map(({ unit }) => ({ values: valuesOf(tensor, unit), width, scale, tower })),
    [order, most],
  );
  return (
    <Tiles label={words.mapsOf(layer.name, tower)} columns={columns} tiles={tiles}>
      <MapsCanvas maps={maps} columns={columns} />
    </Tiles>
  );
}

/** All units of a fully connected layer as a field of small squares. */
function Units({ layer, tensor, tower }: OfTower) {
  const { words, explorer } = useShown();
  const [start, end] = shareOf(layer, explorer.description.towers, tower);
  const count = end - start;
  const width = Math.ceil(Math.sqrt(3 * count)); // three times as wide as high
  const maps = useMemo(() => {
    const values = new Float32Array(width * Math.ceil(count / width));
    values.set(tensor.data.subarray(start, end));
    return [{ values, width, scale: scaleOf(tensor.data), tower }];
  }, [tensor]);
  const active = tensor.data.subarray(start, end).filter((value) => value > 0).length;
  return (
    <div class="units">
      <MapsCanvas maps={maps} columns={1} label={words.unitsOf(layer.name, tower)} />
      <p class="note">{words.unitsActive(active, count)}</p>
    </div>
  );
}

const BEST = 3;

/** The best of the classes that a tower holds. */
function Classes({ layer, tower, probabilities }: { layer: Layer; tower: number; probabilities: Float32Array }) {
  const { words, explorer } = useShown();
  const { description } = explorer;
  const [start, end] = shareOf(layer, description.towers, tower);
  const own = description.classes.map((_, label) => label).slice(start, end); // there may be fewer names than units
  own.sort((a, b) => probabilities[b] - probabilities[a]);
  return (
    <ol class="classes" aria-label={words.classesOf(tower)}>
      {own.slice(0, BEST).map((label) => (
        <li key={label}>
          <span class="name">{description.classes[label]}</span>
          <span class="number">{words.percent(probabilities[label])}</span>
          <span class="track">
            <span class="fill" style={{ width: `${100 * probabilities[label]}%` }} />
          </span>
        </li>
      ))}
    </ol>
  );
}
