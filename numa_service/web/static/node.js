// One node in detail: watermarks of its zones, the pages in them, kswapd, numastat, distances.
import { ask, bytes, count, h, list, percent, put, say } from "./dom.js";

const CONTENTS = [["free", "free"], ["pcp", "pagesets"], ["file", "page cache"], ["anon", "anonymous"], ["held", "held"]];
const STATS = ["hit", "miss", "foreign", "interleave hit", "local node", "other node"];

export class NodePanel {
  #shape = ""; #zones = [];
  constructor(title, body, model) { this.title = title; this.body = body; this.model = model; this.nid = null; }
  show(nid) { this.nid = nid; this.update([nid]); }
  update(nids) {
    if (!nids.includes(this.nid)) return;
    const node = this.model.nodes.get(this.nid);
    const shape = `${this.nid}:${node.zones.map((zone) => zone.name).join()}`;
    if (shape !== this.#shape) { this.#shape = shape; this.#build(node); }
    this.#fill(node);
  }
  #build(node) {
    say(this.title, `Node ${node.nid}`);
    this.line = h("p", { class: "line" });
    this.kswapd = h("p", { class: "line" });
    this.#zones = node.zones.map((zone) => {
      const parts = { free: h("span"), note: h("small"), bars: {}, ticks: {}, contents: {} };
      const marks = h("div", { class: "marks" });
      for (const name of ["high", "low", "min", "fill"]) marks.append(parts.bars[name] = h("i", { class: `b-${name}` }));
      for (const name of ["min", "low", "high", "managed"]) marks.append(parts.ticks[name] = h("i", { class: "b-tick" }));
      const what = h("div", { class: "what" });
      for (const [name] of CONTENTS) what.append(parts.contents[name] = h("i", { class: `c-${name}` }));
      parts.element = h("div", { class: "zone" }, h("div", { class: "head" }, h("b", { text: zone.name }), parts.free), marks, what, parts.note);
      return parts;
    });
    const key = h("p", { class: "key" });
    for (const [name, text] of CONTENTS) key.append(h("span", {}, h("i", { class: `c-${name}` }), text));
    this.stats = STATS.map(() => h("td"));
    const table = h("table", {}, h("tbody", {}, ...STATS.map((name, i) => h("tr", {}, h("th", { scope: "row", text: name }), this.stats[i]))));
    const others = this.model.machine.nodes.map((other) => other.nid);
    const far = others.length > 16 ? `${others.length} nodes` : others.map((nid) => `${nid}: ${this.model.distance(node.nid, nid)}`).join("  ");
    const lists = h("div");
    const types = h("details", { ontoggle: (event) => event.target.open && this.#types(node, lists) }, h("summary", { text: "Free blocks by migratetype" }), lists);
    this.body.replaceChildren(this.line, this.kswapd, ...this.#zones.map((parts) => parts.element), key, table,
      h("p", { class: "line", text: `Falls back ${node.fallback.slice(0, 12).join(" → ")}${node.fallback.length > 12 ? " …" : ""}` }),
      h("p", { class: "line", text: `Distances ${far}` }), types);
  }
  #fill(node) {
    const { now } = node;
    const cpus = node.cpus.length ? `CPUs ${list(node.cpus)}` : "no CPUs";
    say(this.line, now ? `${cpus} · ${count(now.s)} sessions · ${bytes(now.h)} held · lineage ${now.i}${now.w[0] ? ` · swap ${bytes(now.w[1])} of ${bytes(now.w[0])}` : ""}` : `${cpus} · does not answer: it restarts`);
    say(this.kswapd, now ? `kswapd ${now.k[0]} · woken ${count(now.k[1])} times · ${bytes(now.k[2])} reclaimed` : "");
    node.zones.forEach((zone, index) => {
      const parts = this.#zones[index];
      say(parts.free, `${bytes(zone.free)} of ${bytes(zone.managed)} free`);
      for (const mark of ["min", "low", "high"]) { percent(parts.bars[mark], "width", zone.at(zone[mark])); percent(parts.ticks[mark], "left", zone.at(zone[mark])); }
      percent(parts.ticks.managed, "left", zone.at(zone.managed));
      percent(parts.bars.fill, "width", zone.at(zone.free)); put(parts.bars.fill, "data-level", zone.level);
      const held = Math.max(0, zone.managed - zone.free - zone.pcp - zone.file - zone.anon);
      for (const [name, pages] of Object.entries({ free: zone.free, pcp: zone.pcp, file: zone.file, anon: zone.anon, held })) percent(parts.contents[name], "width", pages / Math.max(1, zone.managed));
      say(parts.note, `min ${count(zone.min)} · low ${count(zone.low)} · high ${count(zone.high)}${zone.boost ? ` (boost ${count(zone.boost)})` : ""} · managed ${count(zone.managed)} · present ${count(zone.present)}`);
    });
    if (now) now.n.forEach((value, i) => say(this.stats[i], count(value)));
  }
  // Read only when asked for: the node walks its free lists for this.
  async #types(node, into) {
    into.replaceChildren(h("p", { class: "line", text: "…" }));
    try {
      const found = [];
      for (const zone of node.zones) {
        const area = (await ask(`api/zone?node=${node.nid}&zone=${encodeURIComponent(zone.name)}`)).free_area;
        const orders = Object.values(area)[0].map((_, order) => order);
        const rows = Object.entries(area).filter(([, blocks]) => blocks.some(Boolean));
        found.push(h("table", {}, h("thead", {}, h("tr", {}, h("th", { text: zone.name }), ...orders.map((order) => h("th", { scope: "col", text: order })))),
          h("tbody", {}, ...rows.map(([type, blocks]) => h("tr", {}, h("th", { scope: "row", text: type.slice(0, 7) }), ...blocks.map((n) => h("td", { text: n || "·" })))))));
      }
      into.replaceChildren(h("div", { class: "scroll" }, ...found));
    } catch (error) { into.replaceChildren(h("p", { class: "line error", text: error.message })); }
  }
}
