/** What the page shows and what visitors can do to it. */

import type { Backend } from "./backend";
import type { Description } from "./contract";
import { covered, GRID, squares } from "./evidence";
import { fromDataUrl, readImage, type Stored } from "./image";
import { Problem } from "./problem";
import type { Outputs } from "./runtime/messages";

export interface Answer {
  stored: Stored;
  step: number;
  links: boolean[];
  outputs: Outputs;
  probabilities: Float32Array;
  whole: Float32Array; // probabilities with all links open
  milliseconds: number; // from the file to this
  carried: Record<string, number[]>; // linked layer -> share of each tower's response that is due to other towers
  evidence: Float32Array[] | null; // probabilities with each square covered, as far as they are computed
}

const SLOW = 100; // milliseconds of an answer from which work in the background goes image by image

export class Explorer {
  stored: Stored | null = null; // the image
  answer: Answer | null = null; // perhaps still that of the last image
  problem: Problem | null = null;
  links: boolean[]; // open
  step: number;
  target: number | null = null; // class whose evidence is shown
  private pending = 0; // images being read, and answers asked for
  private reading = 0; // of the last image; older ones are dropped
  private turn = 0; // of the last answer asked for; older ones are dropped
  private running: Promise<void> = Promise.resolve();
  private gathering = -1; // evidence, for which turn

  constructor(
    readonly description: Description,
    readonly backend: Backend,
    private changed: () => void,
  ) {
    this.links = description.links.map(() => true);
    this.step = description.steps[description.steps.length - 1].step;
  }

  get busy(): boolean {
    return this.pending > 0;
  }

  get size(): number {
    return this.description.image.size;
  }

  /** Get the network ready, for an image to come. */
  load(): Promise<void> {
    return this.catching(() => this.backend.load(this.step));
  }

  async showFile(file: Blob, name: string): Promise<void> {
    const started = performance.now();
    const reading = ++this.reading;
    this.problem = null;
    await this.catching(async () => {
      const stored = await this.busyUntil(readImage(file, name, this.size));
      if (reading !== this.reading) return;
      this.stored = stored;
      this.target = null;
      await this.think(started);
    });
  }

  showExample(index: number): Promise<void> {
    const { picture, label } = this.description.examples[index];
    return this.showFile(fromDataUrl(picture), label);
  }

  setLinks(links: boolean[]): Promise<void> {
    this.links = links;
    this.problem = null;
    return this.catching(() => this.think(performance.now()));
  }

  setStep(step: number): Promise<void> {
    this.step = step;
    this.problem = null;
    return this.catching(() => this.think(performance.now()));
  }

  setTarget(label: number | null): Promise<void> {
    this.target = label;
    this.problem = null;
    this.changed();
    return this.catching(() => this.gatherEvidence(this.turn));
  }

  report(problem: Problem): void {
    this.problem = problem;
    this.changed();
  }

  /** Add outputs to the answer that were left out at first. */
  async need(names: string[]): Promise<void> {
    const { answer } = this;
    const missing = names.filter((name) => answer && !(name in answer.outputs));
    if (!answer || missing.length === 0) return;
    await this.catching(async () => {
      const outputs = await this.run(answer.step, answer.stored.pixels, answer.links, missing);
      this.amend(answer, { outputs: { ...this.answer!.outputs, ...outputs } });
    });
  }

  private async catching(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.problem = error instanceof Problem ? error : new Problem((words) => words.networkFailed(String(error)));
    } finally {
      this.changed();
    }
  }

  private async busyUntil<T>(work: Promise<T>): Promise<T> {
    this.pending++;
    this.changed();
    try {
      return await work;
    } finally {
      this.pending--;
      this.changed();
    }
  }

  private run(step: number, images: Uint8Array, links: boolean[], outputs: string[]): Promise<Outputs> {
    return this.backend.run(step, images, links.map(Number), outputs);
  }

  /** A changed copy of `answer` in its place, unless another has taken that. */
  private amend(answer: Answer, changes: Partial<Answer>): void {
    const { stored, step, links } = answer;
    if (this.answer?.stored !== stored || this.answer.step !== step || this.answer.links !== links) return;
    this.answer = { ...this.answer, ...changes };
    this.changed();
  }

  private async think(started: number): Promise<void> {
    const turn = ++this.turn;
    const work = this.running.then(() => this.answerNow(turn, started));
    this.running = work.catch(() => {});
    await this.busyUntil(work);
    if (turn !== this.turn || !this.answer) return;
    await this.weighLinks(turn);
    await this.gatherEvidence(turn);
  }

  private async answerNow(turn: number, started: number): Promise<void> {
    const { step, links, answer, stored } = this;
    if (turn !== this.turn || !stored) return;
    const { layers } = this.description;
    const shown = layers.flatMap(({ name, stages }) =>
      (this.backend.transfers ? stages.slice(-1) : stages).map((stage) => `${name}.${stage.name}`),
    );
    const loading = performance.now();
    await this.backend.load(step);
    started += performance.now() - loading;
    const outputs = await this.run(step, stored.pixels, links, ["probabilities", ...shown]);
    const probabilities = outputs.probabilities.data;
    const milliseconds = performance.now() - started;
    let whole = probabilities;
    if (links.includes(false)) {
      const known = answer?.stored === stored && answer.step === step;
      whole = known ? answer.whole : await this.allLinked(step, stored);
    }
    this.answer = { stored, step, links, outputs, probabilities, whole, milliseconds, carried: {}, evidence: null };
  }

  private async allLinked(step: number, stored: Stored): Promise<Float32Array> {
    const open = this.links.map(() => true);
    return (await this.run(step, stored.pixels, open, ["probabilities"])).probabilities.data;
  }

  /** Cut one link after the other, to see how much of what the towers respond there is due to each other. */
  private async weighLinks(turn: number): Promise<void> {
    const answer = this.answer!;
    const { towers, layers, links } = this.description;
    for (const [i, name] of links.entries()) {
      if (turn !== this.turn) return;
      if (!answer.links[i]) continue;
      const layer = layers.find((each) => each.name === name)!;
      const output = `${name}.${layer.stages[0].name}`;
      await this.need([output]);
      const cut = answer.links.map((open, j) => open && j !== i);
      const own = (await this.run(answer.step, answer.stored.pixels, cut, [output]))[output].data;
      const all = this.answer?.outputs[output]?.data;
      if (turn !== this.turn || !all) return;
      const share = Math.ceil(layer.features / towers) * (own.length / layer.features);
      const carried = Array.from({ length: towers }, (_, tower) => {
        let mine = 0;
        let others = 0;
        for (let at = tower * share; at < Math.min((tower + 1) * share, own.length); at++) {
          mine += Math.abs(own[at]);
          others += Math.abs(all[at] - own[at]);
        }
        return others / (mine + others || 1);
      });
      this.amend(answer, { carried: { ...this.answer!.carried, [name]: carried } });
    }
  }

  private async gatherEvidence(turn: number): Promise<void> {
    const answer = this.answer;
    if (!answer || this.target === null || this.gathering === turn) return;
    this.gathering = turn;
    const { image, mean } = this.description;
    const covers = squares(image.size, image.crop);
    const batch = answer.milliseconds > SLOW ? 1 : GRID;
    try {
      for (let known = answer.evidence ?? []; known.length < covers.length; known = this.answer!.evidence ?? []) {
        if (turn !== this.turn) return;
        const images = covered(
          answer.stored.pixels,
          image.size,
          covers.slice(known.length, known.length + batch),
          mean,
        );
        const { probabilities } = await this.run(answer.step, images, answer.links, ["probabilities"]);
        const [rows, classes] = probabilities.shape;
        const found = Array.from({ length: rows }, (_, i) => probabilities.data.slice(i * classes, (i + 1) * classes));
        this.amend(answer, { evidence: [...known, ...found] });
      }
    } finally {
      if (this.gathering === turn) this.gathering = -1; // to be continued if it failed
    }
  }
}
