// Asks the machine why an allocation goes where it goes; and changes the machine, if the console is writable.
import { $, ask, count, h, say } from "./dom.js";

const GFPS = ["GFP_KERNEL", "GFP_HIGHUSER_MOVABLE", "GFP_USER", "GFP_ATOMIC", "GFP_NOWAIT", "GFP_KERNEL|__GFP_THISNODE", "GFP_KERNEL|GFP_DMA32", "GFP_KERNEL|GFP_DMA", "GFP_TRANSHUGE_LIGHT"];

export class Why {
  constructor(model, onplaced) {
    this.model = model; this.onplaced = onplaced;
    const form = this.form = $("why-form");
    const cpus = model.machine.nodes.flatMap((node) => node.cpus.map((cpu) => [cpu, node.nid]));
    for (const [cpu, nid] of cpus) form.elements.cpu.append(h("option", { value: cpu, text: `${cpu} (node ${nid})` }));
    for (let order = 0; order <= 10; order += 1) form.elements.order.append(h("option", { value: order, text: `${order} (${2 ** order} pages)` }));
    for (const gfp of GFPS) form.elements.gfp.append(h("option", { value: gfp, text: gfp }));
    form.addEventListener("submit", (event) => { event.preventDefault(); this.explain(); });
    $("why-note").textContent = model.machine.writable
      ? "One block is really taken, and given back at once."
      : "One block is taken without reclaim, and given back at once: counters show it.";
    if (model.machine.writable) this.#change();
  }
  select(nid) {
    const { policy, cpu } = this.form.elements, node = this.model.nodes.get(nid), every = this.model.machine.nodes.map((n) => n.nid).join();
    const options = [["default", "default: near the CPU"], [`bind:${nid}`, `bind to node ${nid}`], [`preferred:${nid}`, `prefer node ${nid}`], [`interleave:${every}`, "interleave over all"]];
    policy.replaceChildren(...options.map(([value, text]) => h("option", { value, text })));
    if (node.cpus.length) cpu.value = node.cpus[0];
    else {
      // a node without CPUs is explained from a CPU of the nearest node that has some
      const near = this.model.machine.nodes.filter((n) => n.cpus.length).sort((a, b) => this.model.distance(a.nid, nid) - this.model.distance(b.nid, nid))[0];
      if (near) cpu.value = near.cpus[0];
      policy.value = `bind:${nid}`;
    }
  }
  #asked() {
    const { cpu, order, gfp, policy } = this.form.elements;
    return { cpu: Number(cpu.value), order: Number(order.value), gfp: gfp.value, policy: policy.value };
  }
  async explain() {
    const text = $("why-text");
    text.hidden = false;
    try {
      const answer = await ask("api/explain", this.#asked());
      text.classList.remove("error"); say(text, answer.text);
      this.onplaced(new Set(answer.placement.map(([nid]) => nid)));
    } catch (error) { text.classList.add("error"); say(text, error.message); }
  }
  #change() {
    $("write").hidden = false;
    const note = $("write-note");
    const does = (what) => async (event) => {
      event.preventDefault();
      try { note.classList.remove("error"); say(note, await what(event.target)); } catch (error) { note.classList.add("error"); say(note, error.message); }
    };
    $("write-form").addEventListener("submit", does(async (form) => {
      const got = await ask("api/alloc", { ...this.#asked(), count: Number(form.elements.count.value) });
      return `${got.pages_by_node.map(([nid, pages]) => `${count(pages)} pages on node ${nid}`).join(", ")}; ${count(got.held)} held`;
    }));
    $("write-free").addEventListener("click", does(async () => `${count((await ask("api/free", { all: true })).freed)} pages freed`));
    $("sysctl-form").addEventListener("submit", does(async (form) => {
      const { key, value } = form.elements;
      const { note: unmodelled } = await ask("api/sysctl", { key: key.value, value: value.value });
      return unmodelled || `${key.value} = ${value.value}`;
    }));
  }
}
