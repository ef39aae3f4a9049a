/** What flows into a layer: from each tower to itself and, where they are linked, to the others. */

import type { Layer } from "../contract";
import { hue } from "../maps";
import { Switch, useShown } from "./shared";

const WIDEST = 9; // pixels: the whole response
const GAPS = 10; // over the number of towers: a gap between two, percent of the width, as in style.css

export function Crossing({ layer, first }: { layer: Layer; first: boolean }) {
  const { words, explorer } = useShown();
  const { description, links, answer } = explorer;
  const towers = Array.from({ length: description.towers }, (_, tower) => tower);
  const link = description.links.indexOf(layer.name);
  const carried = answer?.carried[layer.name];
  const centre = (tower: number) =>
    50 + ((100 + GAPS / towers.length) * (tower - (towers.length - 1) / 2)) / towers.length;
  const strand = (from: number, to: number) => {
    const [x, y] = [first ? 50 : centre(from), centre(to)];
    const share = carried === undefined ? 0.2 : from === to ? 1 - carried[to] : carried[to] / (towers.length - 1);
    const crosses = from !== to && !first;
    return (
      <path
        key={`${from} ${to}`}
        class={crosses && !links[link] ? "cut" : ""}
        d={`M${x} 0 C${x} 55 ${y} 45 ${y} 100`}
        style={{ stroke: `var(--tower-${hue(first ? to : from)})`, strokeWidth: link < 0 ? 1.5 : 1 + WIDEST * share }}
      />
    );
  };
  const linked = link >= 0;
  return (
    <div class={`crossing${linked ? " linked" : ""}${first ? " first" : ""}`}>
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">
        {linked && towers.flatMap((from) => towers.filter((to) => to !== from).map((to) => strand(from, to)))}
        {towers.map((tower) => strand(tower, tower))}
      </svg>
      {first && towers.length > 1 && (
        <div class="towers names">
          {towers.map((tower) => (
            <p key={tower} data-tower={hue(tower)}>
              {words.tower(tower)}
            </p>
          ))}
        </div>
      )}
      {linked && (
        <div class={`caption${towers.length === 2 ? " pair" : ""}`}>
          <Switch
            label={words.link(layer.name)}
            on={links[link]}
            change={(on) => void explorer.setLinks(links.map((open, i) => (i === link ? on : open)))}
          >
            {links[link] ? words.linked : words.cut}
          </Switch>
          <div class="towers">
            {towers.map((tower) => (
              <p key={tower} class="note">
                {carried && links[link] && words.carried(carried[tower], towers.length === 2 ? 1 - tower : null)}
              </p>
            ))}
          </div>
        </div>
      )}
    </div>
  );
}
