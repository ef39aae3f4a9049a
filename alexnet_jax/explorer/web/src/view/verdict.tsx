/** The answer: the best classes, and what cut links change. */

import { GRID } from "../evidence";
import type { Answer } from "../explorer";
import { hue, towerOf } from "../maps";
import { Switch, useShown } from "./shared";

const BEST = 5;

function best(probabilities: Float32Array, count: number): number[] {
  return [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, count);
}

const isCut = (answer: Answer) => answer.links.includes(false);

/** The best class in a line, which stays in view on phones. */
export function Verdict() {
  const { words, explorer } = useShown();
  const { answer, description, links, busy } = explorer;
  const [first] = answer ? best(answer.probabilities, 1) : [];
  return (
    <div class="verdict">
      <p role="status" aria-live="polite" class={busy ? "busy" : ""}>
        {answer && (
          <>
            <strong>{description.classes[first]}</strong>{" "}
            <span class="number">{words.percent(answer.probabilities[first])}</span>
            {isCut(answer) && <small>{words.before(answer.whole[first])}</small>}
          </>
        )}
        {!answer && busy && words.thinking}
      </p>
      {links.length > 0 && (
        <Switch
          label={words.allLinks}
          on={!links.includes(false)}
          change={(on) => void explorer.setLinks(links.map(() => on))}
        >
          {words.allLinks}
        </Switch>
      )}
    </div>
  );
}

/** Bars of the best classes. Where links are cut, a tick shows each with all links, and the former best comes last. */
export function Bars() {
  const { words, explorer } = useShown();
  const { answer, target, description } = explorer;
  if (!answer) return null;
  const head = description.layers[description.layers.length - 1];
  const shown = best(answer.probabilities, BEST);
  const [former] = best(answer.whole, 1);
  if (!shown.includes(former)) shown.push(former);
  return (
    <section class="bars" aria-label={words.bestClasses}>
      <ol>
        {shown.map((label) => (
          <li key={label} data-tower={hue(towerOf(head, description.towers, label))}>
            <button
              type="button"
              aria-pressed={label === target}
              onClick={() => void explorer.setTarget(label === target ? null : label)}
            >
              <span class="name">{description.classes[label]}</span>
              <span class="number">
                {isCut(answer) && <s>{words.percent(answer.whole[label])}</s>}{" "}
                {words.percent(answer.probabilities[label])}
              </span>
              <span class="track">
                <span class="fill" style={{ width: `${100 * answer.probabilities[label]}%` }} />
                {isCut(answer) && answer.whole[label] > 0.005 && (
                  <span class="tick" style={{ left: `${100 * answer.whole[label]}%` }} />
                )}
              </span>
            </button>
          </li>
        ))}
      </ol>
      <p class="note">{evidenceNote()}</p>
      <p class="note">{words.milliseconds(answer.milliseconds, words.where[explorer.backend.where])}</p>
    </section>
  );

  function evidenceNote(): string {
    if (target === null) return words.evidenceHint;
    const done = answer!.evidence?.length ?? 0;
    return done < GRID ** 2 ? words.evidenceProgress(done, GRID ** 2) : words.evidence(description.classes[target]);
  }
}
