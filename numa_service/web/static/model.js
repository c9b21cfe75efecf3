// The machine as last heard of. Views read it; only `take` writes it.
const HALF_LIFE_MS = 500;
// Frames that say nothing new are not sent: a change is of the last interval, however long it was quiet before.
const INTERVAL_MS = 250;
const SILENT = 0.02; // share of what it was, below which a flow is over

export class Zone {
  constructor([name, free, min, low, high, boost, managed, present, spanned, pcp, blocks, lru]) {
    Object.assign(this, { name, free, managed, present, spanned, pcp, blocks, boost });
    this.min = min + boost; this.low = low + boost; this.high = high + boost;
    this.anon = lru[0] + lru[1]; this.file = lru[2] + lru[3];
    this.level = free < this.min ? "min" : free < this.low ? "low" : free < this.high ? "high" : "ok";
  }
  // Share of the bar: square root, so that watermarks of a percent are visible.
  at(pages) { return Math.sqrt(Math.min(1, pages / Math.max(1, this.present))); }
}

export class Model {
  constructor(machine) {
    this.machine = machine;
    this.nodes = new Map(machine.nodes.map((node) => [node.nid, { ...node, now: null, zones: [], names: "" }]));
    this.shape = 0; // another number, other zones: what is drawn is drawn anew
    this.flows = new Map(); // "from>to" → {from, to, rate, at}
    this.row = new Map(machine.nodes.map((node, index) => [node.nid, index]));
  }
  distance(from, to) { return this.machine.distances[this.row.get(from)][this.row.get(to)]; }

  take(changed, clock) {
    for (const [nid, frame] of Object.entries(changed)) {
      const node = this.nodes.get(Number(nid));
      if (!node) continue;
      const before = node.now;
      node.now = frame;
      node.zones = frame ? frame.z.map((zone) => new Zone(zone)) : [];
      const names = node.zones.map((zone) => zone.name).join();
      if (names !== node.names) { node.names = names; this.shape += 1; }
      if (!frame || !before || before.i !== frame.i) continue;
      const was = new Map(before.f);
      const seconds = Math.max(1, Math.min(frame.t - before.t, INTERVAL_MS)) / 1000;
      for (const [to, pages] of frame.f) {
        const more = pages - (was.get(to) ?? 0);
        if (more > 0) this.#flow(node.nid, to, more / seconds, clock);
      }
    }
  }
  #flow(from, to, rate, clock) {
    const key = `${from}>${to}`;
    const known = this.flows.get(key);
    const old = known ? this.#decayed(known, clock) : rate;
    this.flows.set(key, { from, to, key, rate: 0.5 * old + 0.5 * rate, at: clock });
  }
  #decayed(flow, clock) {
    const quiet = Math.max(0, clock - flow.at - 2 * INTERVAL_MS);
    return flow.rate * 2 ** (-quiet / HALF_LIFE_MS);
  }
  // Flows that go on, the strongest first.
  flowing(clock, most = 64) {
    const found = [];
    for (const [key, flow] of this.flows) {
      const rate = this.#decayed(flow, clock);
      if (rate < SILENT * flow.rate) this.flows.delete(key); else found.push({ ...flow, rate });
    }
    return found.sort((a, b) => b.rate - a.rate).slice(0, most);
  }
}
