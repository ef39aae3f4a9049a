import type { Words } from "./words/en";

/** Something for the page to say, in the language it is shown in. */
export class Problem extends Error {
  constructor(readonly say: (words: Words) => string) {
    super("a problem to show on the page");
  }
}
