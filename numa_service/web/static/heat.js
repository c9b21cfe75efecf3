// Free blocks of every zone by order, on one canvas: the colour shows the share of the zone's pages that is in them.
import { bytes, count, say } from "./dom.js";

const LEFT = 30, FOOT = 34, CELL_HIGH = 15, GAP = 1;

export class Heat {
  #columns = []; #drawn = new Map(); #at = [0, 0]; #shape = -1; #cell = 0;
  constructor(canvas, note, model) {
    this.canvas = canvas; this.note = note; this.model = model; this.context = canvas.getContext("2d");
    new ResizeObserver(() => this.redraw()).observe(canvas.parentElement);
    canvas.addEventListener("mousemove", (event) => { if (event.movementX || event.movementY) this.#point(event.offsetX, event.offsetY); });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#tell());
    canvas.addEventListener("blur", () => this.redraw());
  }
  #layout() {
    this.#columns = [];
    for (const node of this.model.nodes.values()) node.zones.forEach((zone, index) => this.#columns.push([node.nid, index]));
    this.orders = Math.max(1, ...this.#columns.map(([nid, index]) => this.model.nodes.get(nid).zones[index].blocks.length));
    const room = this.canvas.parentElement.clientWidth - LEFT;
    this.#cell = Math.max(5, Math.min(64, Math.floor(room / Math.max(1, this.#columns.length))));
    const width = LEFT + this.#cell * this.#columns.length, height = this.orders * CELL_HIGH + FOOT, ratio = devicePixelRatio || 1;
    this.canvas.style.width = `${width}px`; this.canvas.style.height = `${height}px`;
    this.canvas.width = width * ratio; this.canvas.height = height * ratio;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#drawn.clear();
  }
  redraw() {
    this.#shape = -1;
    this.update([...this.model.nodes.keys()]);
  }
  update(nids) {
    let changed = new Set(nids);
    if (this.model.shape !== this.#shape) { this.#shape = this.model.shape; this.#layout(); this.#frame(); changed = new Set(this.model.nodes.keys()); }
    this.#columns.forEach(([nid, index], column) => {
      if (!changed.has(nid)) return;
      const zone = this.model.nodes.get(nid).zones[index];
      for (let order = 0; order < this.orders; order += 1) this.#paint(column, order, zone);
    });
  }
  // There are 24 shades: a cell that keeps its shade is not drawn again.
  #paint(column, order, zone) {
    const share = ((zone.blocks[order] ?? 0) * 2 ** order) / Math.max(1, zone.managed);
    const shade = share ? 1 + Math.min(23, Math.round(23 * Math.sqrt(share))) : 0, key = column * 64 + order;
    if (this.#drawn.get(key) === shade) return;
    this.#drawn.set(key, shade);
    const { context } = this, [x, y] = this.#corner(column, order);
    context.globalAlpha = 1; context.fillStyle = this.colours[0];
    context.fillRect(x, y, this.#cell - GAP, CELL_HIGH - GAP);
    if (shade) { context.globalAlpha = 0.08 + 0.92 * (shade / 24); context.fillStyle = this.colours[1]; context.fillRect(x, y, this.#cell - GAP, CELL_HIGH - GAP); context.globalAlpha = 1; }
  }
  #corner(column, order) { return [LEFT + column * this.#cell, (this.orders - 1 - order) * CELL_HIGH]; }
  #frame() {
    const style = getComputedStyle(document.documentElement), { context } = this;
    this.colours = ["--heat-0", "--heat-1"].map((name) => style.getPropertyValue(name).trim());
    context.fillStyle = style.getPropertyValue("--soft").trim(); context.font = "11px system-ui, sans-serif";
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.textAlign = "right"; context.textBaseline = "middle";
    for (let order = 0; order < this.orders; order += 1) context.fillText(String(order), LEFT - 8, this.#corner(0, order)[1] + CELL_HIGH / 2);
    context.textAlign = "left"; context.textBaseline = "top";
    let before = null, free = 0;
    this.#columns.forEach(([nid, index], column) => {
      const [x] = this.#corner(column, 0), y = this.orders * CELL_HIGH + 4;
      if (this.#cell >= 40) context.fillText(this.model.nodes.get(nid).zones[index].name, x, y);
      if (nid !== before && x >= free) { const text = this.#cell >= 20 ? `node ${nid}` : String(nid); context.fillText(text, x, y + (this.#cell >= 40 ? 14 : 0)); free = x + context.measureText(text).width + 4; }
      before = nid;
    });
  }
  #point(x, y) {
    const column = Math.floor((x - LEFT) / this.#cell), order = this.orders - 1 - Math.floor(y / CELL_HIGH);
    if (column >= 0 && column < this.#columns.length && order >= 0 && order < this.orders) { this.#at = [column, order]; this.#tell(false); }
  }
  #key(event) {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const clamp = (n, most) => Math.max(0, Math.min(most, n));
    this.#at = [clamp(this.#at[0] + way[0], this.#columns.length - 1), clamp(this.#at[1] + way[1], this.orders - 1)];
    this.#tell();
  }
  #tell(cursor = true) {
    const [column, order] = this.#at;
    if (!this.#columns[column]) return;
    const [nid, index] = this.#columns[column], zone = this.model.nodes.get(nid).zones[index], blocks = zone.blocks[order] ?? 0;
    say(this.note, `node ${nid} ${zone.name}, order ${order}: ${count(blocks)} blocks, ${bytes(blocks * 2 ** order)}`);
    if (!cursor) return;
    this.redraw();
    const [x, y] = this.#corner(column, order);
    this.context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--focus").trim();
    this.context.lineWidth = 2; this.context.strokeRect(x + 1, y + 1, Math.max(3, this.#cell - 3), CELL_HIGH - 3);
  }
}
