// The picture of the machine: sockets with nodes, nodes with CPUs and zones, and arrows for pages got from elsewhere.
import { bytes, list, put, rate, s, say } from "./dom.js";

const GAP = 12, PAD = 12, LABEL = 22, CPUS_DRAWN = 16;
const DENSE_FROM = 13;

export class Picture {
  #cards = new Map(); #arrows = new Map(); #width = 0; #shape = -1; #lit = new Set();
  constructor(stage, model, { onselect, onopen }) {
    this.stage = stage; this.model = model; this.onselect = onselect; this.onopen = onopen;
    this.selected = model.machine.nodes[0].nid;
    this.dense = model.machine.nodes.length >= DENSE_FROM;
    this.svg = s("svg", { role: "listbox", "aria-label": "Nodes of the machine; arrow keys move", "aria-orientation": "horizontal" });
    this.arrows = s("svg", { class: "flows", "aria-hidden": "true" });
    stage.classList.toggle("dense", this.dense);
    stage.append(this.svg, this.arrows);
    new ResizeObserver(([entry]) => this.#fit(Math.floor(entry.contentRect.width))).observe(stage);
    this.svg.addEventListener("keydown", (event) => this.#key(event));
  }
  #fit(width) {
    if (width && width !== this.#width) { this.#width = width; this.#draw(); }
  }

  #draw() {
    const { model, dense } = this, width = this.#width;
    this.#shape = model.shape;
    const focused = this.svg.contains(document.activeElement);
    this.svg.replaceChildren(); this.#cards.clear(); this.#arrows.clear();
    const tallOf = (zones) => (dense ? 28 + zones * 11 : 52 + zones * 31);
    const heightOf = (nid) => tallOf(Math.max(1, model.nodes.get(nid).zones.length));
    const sockets = model.machine.sockets;
    const inner = Math.max(...sockets.map((nids) => this.#columns(nids)));
    const least = dense ? 62 : 168, gap = width < 560 ? 14 : dense ? 16 : 64;
    const need = (cols) => cols * (inner * least + (inner - 1) * GAP + 2 * PAD) + (cols - 1) * gap;
    let columns = sockets.length;
    while (columns > 1 && need(columns) > width) columns -= 1;
    columns = Math.ceil(sockets.length / Math.ceil(sockets.length / columns));
    const box = (width - (columns - 1) * gap) / columns;
    const card = Math.min(dense ? 150 : 300, (box - 2 * PAD - (inner - 1) * GAP) / inner);
    let y = 0;
    const boxes = s("g"), cards = s("g");
    for (let first = 0; first < sockets.length; first += columns) {
      const row = sockets.slice(first, first + columns);
      const tops = []; // top of each line of cards, and the end of the last
      for (const nids of row) {
        const cols = this.#columns(nids);
        nids.forEach((nid, at) => { const line = Math.floor(at / cols); tops[line] = Math.max(tops[line] ?? 0, heightOf(nid)); });
      }
      const tall = tops.reduce((sum, high, line) => { tops[line] = sum; return sum + high + GAP; }, LABEL) - GAP + PAD;
      if (y) y += dense ? 12 : 30;
      row.forEach((nids, index) => {
        const cols = this.#columns(nids);
        const x = index * (box + gap), wide = cols * card + (cols - 1) * GAP, left = x + (box - wide) / 2;
        boxes.append(s("g", { class: "socket" },
          s("rect", { x: x + .5, y: y + .5, width: box - 1, height: tall, rx: 12 }),
          s("text", { x: x + PAD, y: y + 15, text: `${sockets.length > 1 ? "Socket" : "Machine"} ${sockets.length > 1 ? first + index : ""}` })));
        nids.forEach((nid, at) => {
          const card_ = this.#card(model.nodes.get(nid), left + (at % cols) * (card + GAP), y + tops[Math.floor(at / cols)], card, heightOf(nid));
          cards.append(card_);
        });
      });
      y += tall;
    }
    this.arrows.replaceChildren();
    this.svg.append(boxes, cards);
    for (const svg of [this.svg, this.arrows]) { svg.setAttribute("viewBox", `0 0 ${width} ${y + 1}`); svg.setAttribute("height", y + 1); }
    this.update([...model.nodes.keys()]);
    this.select(this.selected, focused);
    this.light(this.#lit);
  }
  #columns(nids) {
    if (this.#width < 560) return this.dense ? Math.min(4, nids.length) : nids.length > 3 ? 2 : 1;
    return this.dense ? Math.min(4, nids.length) : nids.length > 2 ? 2 : 1;
  }
  #card(node, x, y, width, height) {
    const { dense } = this, inner = width - 20;
    const g = s("g", {
      class: `node${node.cpus.length ? "" : " far"}`, role: "option", tabindex: -1, "data-nid": node.nid,
      transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
      onclick: () => { this.select(node.nid, true); },
      ondblclick: () => this.onopen(node.nid),
    });
    g.append(s("rect", { class: "body", width: width.toFixed(1), height, rx: 9 }));
    g.append(s("text", { class: "name", x: 10, y: 19, text: dense ? `${node.nid}` : `node ${node.nid}` }));
    const kswapd = s("circle", { class: "kswapd", cx: width - 13, cy: 15, r: 4.5 });
    const doing = dense ? null : s("text", { class: "small", x: width - 22, y: 19, "text-anchor": "end" });
    const badge = s("g", { visibility: "hidden" }, s("rect", { class: "badge", x: dense ? 26 : 66, y: 6, width: dense ? 24 : 62, height: 17, rx: 8 }), s("text", { class: "badge-text", x: dense ? 38 : 97, y: 18 }));
    g.append(kswapd, badge);
    if (doing) g.append(doing);
    if (!dense) {
      if (node.cpus.length && node.cpus.length <= CPUS_DRAWN)
        node.cpus.forEach((cpu, i) => g.append(s("rect", { class: "cpu", x: 10 + i * 11, y: 29, width: 8, height: 8, rx: 2 })));
      const after = node.cpus.length <= CPUS_DRAWN && node.cpus.length ? 16 + node.cpus.length * 11 : 10;
      if (after < width - 80 || !node.cpus.length || node.cpus.length > CPUS_DRAWN)
        g.append(s("text", { class: "small", x: after, y: 37, text: node.cpus.length ? (node.cpus.length > CPUS_DRAWN ? `${node.cpus.length} CPUs ${list(node.cpus)}` : `CPU ${list(node.cpus)}`) : "memory only" }));
    }
    const bars = node.zones.map((zone, index) => {
      const top = dense ? 28 + index * 11 : 50 + index * 31, high = dense ? 7 : 10;
      const at = dense ? top : top + 12;
      const bar = { inner, top: at };
      if (!dense) {
        g.append(s("text", { class: "small", x: 10, y: top + 8, text: zone.name }));
        g.append(bar.text = s("text", { class: "small", x: width - 10, y: top + 8, "text-anchor": "end" }));
      }
      const rect = (name, tall = high, off = 0) => { const r = s("rect", { class: name, x: 10, y: at + off, height: tall, width: 0, rx: 2 }); g.append(r); return r; };
      rect("track").setAttribute("width", inner.toFixed(1));
      bar.high = rect("t-high"); bar.low = rect("t-low"); bar.min = rect("t-min");
      bar.fill = rect("fill", high - (dense ? 2 : 4), dense ? 1 : 2);
      bar.ticks = dense ? [] : ["min", "low", "high"].map((mark) => { const line = s("line", { class: "tick", y1: at, y2: at + high }); g.append(line); return [mark, line]; });
      return bar;
    });
    this.#cards.set(node.nid, { g, bars, kswapd, doing, badge, x, y, width, height });
    return g;
  }

  update(nids) {
    if (!this.#width) return;
    if (this.model.shape !== this.#shape) { this.#draw(); return; }
    for (const nid of nids) this.#updateCard(this.model.nodes.get(nid), this.#cards.get(nid));
  }
  #updateCard(node, card) {
    card.g.classList.toggle("away", !node.now);
    const state = node.now ? node.now.k[0] : "away";
    put(card.kswapd, "data-state", state);
    if (card.doing) say(card.doing, node.now ? `kswapd ${state}` : "restarts");
    node.zones.forEach((zone, index) => {
      const bar = card.bars[index];
      if (!bar) return;
      for (const mark of ["min", "low", "high"]) put(bar[mark], "width", (zone.at(zone[mark]) * bar.inner).toFixed(1));
      put(bar.fill, "width", (zone.at(zone.free) * bar.inner).toFixed(1));
      put(bar.fill, "data-level", zone.level);
      if (bar.text) say(bar.text, `${bytes(zone.free)} free`);
      for (const [mark, line] of bar.ticks) { const x = (10 + zone.at(zone[mark]) * bar.inner).toFixed(1); put(line, "x1", x); put(line, "x2", x); }
    });
    const free = node.zones.reduce((sum, zone) => sum + zone.free, 0);
    put(card.g, "aria-label", `node ${node.nid}, ${node.cpus.length || "no"} CPUs, ${node.now ? `${bytes(free)} free, kswapd ${state}` : "does not answer"}`);
  }

  // Arrows from the node that asked to the one that gave pages; width and opacity show the rate.
  flow(flows) {
    const gone = new Set(this.#arrows.keys());
    for (const { key, from, to, rate: pages } of flows) {
      gone.delete(key);
      let arrow = this.#arrows.get(key);
      if (!arrow) {
        arrow = this.#arrow(this.#cards.get(from), this.#cards.get(to));
        if (!arrow) continue;
        this.#arrows.set(key, arrow);
        this.arrows.append(arrow.path, arrow.head);
        if (arrow.label) this.arrows.append(arrow.label);
      }
      const strength = Math.min(1, Math.log10(1 + pages) / 6);
      put(arrow.path, "stroke-width", (1.2 + 5 * strength).toFixed(1));
      put(arrow.path, "opacity", (0.35 + 0.65 * strength).toFixed(2));
      put(arrow.head, "opacity", (0.45 + 0.55 * strength).toFixed(2));
      if (arrow.label) say(arrow.label, `${rate(pages)} pages/s`);
    }
    for (const key of gone) { const a = this.#arrows.get(key); a.path.remove(); a.head.remove(); a.label?.remove(); this.#arrows.delete(key); }
  }
  #arrow(a, b) {
    if (!a || !b) return null;
    const [ax, ay, bx, by] = [a.x + a.width / 2, a.y + a.height / 2, b.x + b.width / 2, b.y + b.height / 2];
    const long = Math.hypot(bx - ax, by - ay) || 1, nx = -(by - ay) / long, ny = (bx - ax) / long;
    // moved to its own right, so that it lies beside the arrow in the other direction
    const edge = (c, dx, dy) => Math.min((c.width / 2) / (Math.abs(dx) || 1e-9), (c.height / 2) / (Math.abs(dy) || 1e-9));
    const dx = (bx - ax) / long, dy = (by - ay) / long, off = this.dense ? 6 : 16;
    const start = Math.max(0, edge(a, dx, dy) - 14), end = Math.max(0, edge(b, dx, dy) - 10);
    const x1 = ax + dx * start + nx * off, y1 = ay + dy * start + ny * off, x2 = bx - dx * end + nx * off, y2 = by - dy * end + ny * off;
    const bend = Math.min(40, long / 8), mx = (x1 + x2) / 2 + nx * bend, my = (y1 + y2) / 2 + ny * bend;
    const tx = x2 - mx, ty = y2 - my, t = Math.hypot(tx, ty) || 1, ux = tx / t, uy = ty / t, size = this.dense ? 6 : 9;
    const point = (along, across) => `${(x2 + ux * along - uy * across).toFixed(1)},${(y2 + uy * along + ux * across).toFixed(1)}`;
    // the label is nearer to the node that asks, so that it does not cover the label of the opposite arrow
    const along = (p, q, r) => (0.4624 * p + 0.4352 * q + 0.1024 * r).toFixed(1);
    return {
      path: s("path", { class: "flow", d: `M${x1.toFixed(1)} ${y1.toFixed(1)}Q${mx.toFixed(1)} ${my.toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}` }),
      head: s("polygon", { class: "flow-head", points: `${point(size, 0)} ${point(-2, size * .6)} ${point(-2, -size * .6)}` }),
      label: this.dense ? null : s("text", { class: "flow-label", x: along(x1, mx, x2), y: along(y1 + 4, my + 4, y2 + 4) }),
    };
  }

  select(nid, focus = false) {
    const changed = nid !== this.selected;
    this.selected = nid;
    for (const [other, card] of this.#cards) {
      const is = other === nid;
      put(card.g, "tabindex", is ? 0 : -1); put(card.g, "aria-selected", is);
      card.badge.setAttribute("visibility", is ? "hidden" : "visible");
      say(card.badge.lastChild, `${this.dense ? "" : "distance "}${this.model.distance(nid, other)}`);
      if (is && focus) card.g.focus({ preventScroll: !changed });
    }
    if (changed) this.onselect(nid);
  }
  light(nids) {
    this.#lit = nids;
    for (const [nid, card] of this.#cards) card.g.classList.toggle("lit", nids.has(nid));
  }
  #key(event) {
    const nids = [...this.#cards.keys()];
    const here = this.#cards.get(this.selected);
    const centre = (card) => [card.x + card.width / 2, card.y + card.height / 2];
    const [x, y] = centre(here);
    const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    let next = null;
    if (event.key === "Home") next = nids[0];
    else if (event.key === "End") next = nids.at(-1);
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.onopen(this.selected); return; }
    else if (ways[event.key]) {
      const [wx, wy] = ways[event.key];
      let best = Infinity;
      for (const [nid, card] of this.#cards) {
        const [cx, cy] = centre(card), along = (cx - x) * wx + (cy - y) * wy, across = Math.abs((cx - x) * wy) + Math.abs((cy - y) * wx);
        if (along > 1 && along + 3 * across < best) { best = along + 3 * across; next = nid; }
      }
    } else return;
    event.preventDefault();
    if (next !== null) this.select(next, true);
  }
}
