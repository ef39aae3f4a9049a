import { render } from "preact";
import { openBackend, type Progress } from "./backend";
import type { Description } from "./contract";
import { Explorer } from "./explorer";
import { load } from "./loading";
import { Problem } from "./problem";
import "./style.css";
import { App } from "./view/app";
import { en } from "./words/en";
import { zh } from "./words/zh";

/** The language of the address ("?lang=zh"), else of the browser. */
function preferred() {
  const asked = new URLSearchParams(location.search).get("lang") ?? navigator.language;
  return asked.startsWith("zh") ? zh : en;
}

async function start(root: HTMLElement): Promise<void> {
  let words = preferred();
  let progress: Progress | null = null;
  let explorer: Explorer | null = null;
  let frame = 0;
  const showNow = () => {
    document.documentElement.lang = words.language;
    if (explorer) render(<App {...{ explorer, words, progress, otherLanguage }} />, root);
  };
  const show = () => {
    cancelAnimationFrame(frame); // what changes between two frames is shown once
    frame = requestAnimationFrame(showNow);
  };
  const otherLanguage = () => {
    words = words === en ? zh : en;
    show();
  };
  try {
    const description = await load<Description>("network");
    document.title = `${description.name} · alexnet_jax`;
    const backend = await openBackend(description, (now) => {
      progress = now;
      show();
    });
    explorer = new Explorer(description, backend, show);
    show();
    await (description.examples.length > 0 ? explorer.showExample(0) : explorer.load());
  } catch (error) {
    const text = error instanceof Problem ? error.say(words) : String(error);
    render(
      <p class="problem alone" role="alert">
        {text}
      </p>,
      root,
    );
  }
}

void start(document.getElementById("page")!);
