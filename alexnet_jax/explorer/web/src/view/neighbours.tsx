/** The training images that the network finds most like this one. */

import { useMemo } from "preact/hooks";
import type { Neighbours as Bundled } from "../contract";
import { fromFloat16 } from "../float16";
import { bytesOf } from "../loading";
import { nearest } from "../nearest";
import { useFile } from "./files";
import { blobUrl, Sprite, useShown } from "./shared";

const SHOWN = 6;

export function Neighbours() {
  const { words, explorer } = useShown();
  const { answer, description } = explorer;
  const newest = description.steps[description.steps.length - 1].step;
  const bundled = useFile<Bundled>(description.neighbours > 0 && answer ? "neighbours" : null);
  const vectors = useMemo(() => bundled && fromFloat16(new Uint16Array(bytesOf(bundled.vectors).buffer)), [bundled]);
  const layer = description.layers.find(({ name }) => name === bundled?.layer);
  const query = layer && answer?.outputs[`${layer.name}.${layer.stages[layer.stages.length - 1].name}`];
  const found = useMemo(() => (query && vectors ? nearest(query.data, vectors, SHOWN) : []), [query, vectors]);
  if (!bundled || !answer || answer.step !== newest) return null;
  const rows = Math.ceil(bundled.labels.length / bundled.columns);
  return (
    <section class="neighbours" aria-labelledby="neighbours">
      <h2 id="neighbours">{words.neighbours}</h2>
      <p class="note">{words.neighboursBy(bundled.layer, bundled.labels.length)}</p>
      <ul>
        {found.map(({ index, distance }) => {
          const label = description.classes[bundled.labels[index]];
          return (
            <li key={index} class={bundled.side < 100 ? "coarse" : ""}>
              <Sprite
                url={blobUrl(bundled.pictures)}
                row={Math.floor(index / bundled.columns)}
                column={index % bundled.columns}
                rows={rows}
                columns={bundled.columns}
                label={words.neighbour(label, distance)}
              />
              <span aria-hidden="true">{label}</span>
              <span aria-hidden="true" class="number">
                {words.short(distance)}
              </span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}
