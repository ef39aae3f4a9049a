/** conv1's kernels along training: one tower grey, the other in colour. */

import { useEffect, useState } from "preact/hooks";
import { hue, shareOf } from "../maps";
import { blobUrl, Sprite, Tiles, useShown } from "./shared";

const PAUSE = 350; // milliseconds between the steps when they are played

export function Kernels() {
  const { words, explorer, openUnit } = useShown();
  const { description } = explorer;
  const { steps, towers, layers } = description;
  const [shown, setShown] = useState(steps.length - 1);
  const [playing, setPlaying] = useState(false);
  useEffect(() => {
    if (!playing) return undefined;
    const timer = setInterval(() => setShown((at) => Math.min(at + 1, steps.length - 1)), PAUSE);
    return () => clearInterval(timer);
  }, [playing]);
  useEffect(() => {
    if (playing && shown === steps.length - 1) finish(shown);
  }, [playing, shown]);
  const { step, conv1 } = steps[shown];
  const [layer] = layers;
  const finish = (at: number) => {
    setPlaying(false);
    if (steps[at].step !== explorer.step) void explorer.setStep(steps[at].step);
  };
  const play = () => {
    if (playing) return finish(shown);
    if (shown === steps.length - 1) setShown(0);
    setPlaying(true);
  };
  return (
    <section class="kernels" aria-label={words.kernels}>
      <header>
        <h3>{words.kernels}</h3>
        <p>{words.stepOf(step)}</p>
        {steps.length > 1 && (
          <div class="slider">
            <button type="button" class="link" onClick={play}>
              {playing ? words.stop : words.play}
            </button>
            <input
              type="range"
              aria-label={words.trainingStep}
              aria-valuetext={words.stepOf(step)}
              min={0}
              max={steps.length - 1}
              value={shown}
              onInput={({ currentTarget }) => {
                setPlaying(false);
                setShown(Number(currentTarget.value));
              }}
              onChange={({ currentTarget }) => finish(Number(currentTarget.value))}
            />
          </div>
        )}
      </header>
      <div class="towers">
        {Array.from({ length: towers }, (_, tower) => {
          const [start, end] = shareOf(layer, towers, tower);
          const columns = [12, 11, 10, 9, 8].find((count) => (end - start) % count === 0) ?? 10; // full rows
          const tiles = Array.from({ length: end - start }, (_, i) => ({
            key: i,
            label: words.kernel(start + i),
            picture: <Sprite url={blobUrl(conv1)} row={0} column={start + i} rows={1} columns={layer.features} />,
            open: () => openUnit(layer.name, start + i),
          }));
          return (
            <div class="tower" key={tower} data-tower={hue(tower)}>
              <Tiles label={words.kernelsOf(tower)} columns={columns} tiles={tiles} />
            </div>
          );
        })}
      </div>
    </section>
  );
}
