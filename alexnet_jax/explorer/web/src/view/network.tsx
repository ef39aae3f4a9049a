/** The network as the paper's Figure 2 draws it: layer by layer, its towers side by side, with their crossings. */

import { Fragment } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import type { Layer } from "../contract";
import type { Answer } from "../explorer";
import type { Measure } from "../maps";
import { Crossing } from "./crossing";
import { Kernels } from "./kernels";
import { LayerView } from "./layer";
import { drawCrop } from "./picture";
import { Canvas, Choice, useShown } from "./shared";

export function Network() {
  const { words, explorer } = useShown();
  const { description } = explorer;
  const answer = useLater(explorer.answer);
  const [measure, setMeasure] = useState<Measure>("maximum");
  const { image, towers } = description;
  return (
    <section class="network" aria-labelledby="network" style={{ "--towers": towers }}>
      <header>
        <h2 id="network">{words.network}</h2>
        <div class="sort">
          {words.sortBy}
          <Choice
            name="measure"
            label={words.sortBy}
            value={measure}
            change={setMeasure}
            options={[
              { value: "maximum", text: words.maximum },
              { value: "mean", text: words.mean },
            ]}
          />
        </div>
      </header>
      <Kernels />
      <figure class="input">
        {answer && (
          <Canvas
            width={image.crop}
            height={image.crop}
            inputs={[answer.stored]}
            draw={(context) => drawCrop(context, answer.stored, image.size, image.crop)}
          />
        )}
        <figcaption>{answer ? words.input(image.crop) : words.noImageYet}</figcaption>
      </figure>
      {description.layers.map((layer: Layer, i) => (
        <Fragment key={layer.name}>
          <Crossing layer={layer} first={i === 0} />
          <LayerSlot layer={layer} measure={measure} answer={answer} />
        </Fragment>
      ))}
    </section>
  );
}

/** A layer, drawn anew only if its numbers change: not while links are weighed or squares covered. */
function LayerSlot({ layer, measure, answer }: { layer: Layer; measure: Measure; answer: Answer | null }) {
  return useMemo(
    () => <LayerView layer={layer} measure={measure} answer={answer} />,
    [layer, measure, answer?.outputs, answer?.probabilities],
  );
}

/** A value one frame late, so that the answer is seen before hundreds of maps are drawn. */
function useLater<T>(value: T): T {
  const [late, setLate] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setLate(value));
    return () => clearTimeout(timer);
  }, [value]);
  return late;
}
