// The boot log, step by step; the nodes that a step names are highlighted in the picture.
import { $, ask, h, say } from "./dom.js";

const STEP_MS = 1600;

export class Boot {
  #steps = []; #at = -1; #timer = 0;
  constructor(light) {
    this.light = light;
    $("boot-back").addEventListener("click", () => this.step(-1));
    $("boot-next").addEventListener("click", () => this.step(1));
    $("boot-play").addEventListener("click", () => (this.#timer ? this.#stop() : this.#play()));
  }
  async load() {
    this.#steps = await ask("api/boot");
    $("boot-steps").replaceChildren(...this.#steps.map((step, index) => h("li", {}, h("button", { type: "button", text: step.function, onclick: () => { this.#stop(); this.go(index); } }))));
  }
  step(by) { this.#stop(); this.go(this.#at + by); }
  go(index) {
    if (index < -1 || index >= this.#steps.length) return;
    this.#at = index;
    const step = this.#steps[index], log = $("boot-log");
    [...$("boot-steps").children].forEach(({ firstChild: button }, at) => {
      button.classList.toggle("done", at < index);
      if (at === index) button.setAttribute("aria-current", "step"); else button.removeAttribute("aria-current");
    });
    log.hidden = !step;
    say($("boot-what"), step ? `${index + 1} of ${this.#steps.length}, ${step.function}(): ${step.what}` : "Step through what the kernel did, function by function.");
    if (step) { say(log, step.lines.join("\n") + (step.left_out ? `\n… ${step.left_out} lines more` : "")); log.scrollTop = 0; }
    this.light(new Set(step?.nodes ?? []));
  }
  #play() {
    if (this.#at >= this.#steps.length - 1) this.#at = -1;
    say($("boot-play"), "Stop");
    const next = () => { this.go(this.#at + 1); if (this.#at >= this.#steps.length - 1) this.#stop(); };
    this.#timer = setInterval(next, STEP_MS);
    next();
  }
  #stop() { clearInterval(this.#timer); this.#timer = 0; say($("boot-play"), "Play"); }
}
