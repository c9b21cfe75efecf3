// The machine as of the last push. The views read it; only `take` writes it.
const HALF_LIFE_MS = 500;
// A node that does not change is not sent: a change happened in the last interval, however long before it the
// last push of this node came.
const INTERVAL_MS = 250;
const SILENT = 0.02; // a flow is over once its rate has decayed below this share

export class Zone {
  constructor([name, free, min, low, high, boost, managed, present, spanned, pcp, blocks, lru]) {
    Object.assign(this, { name, free, managed, present, spanned, pcp, blocks, boost });
    this.min = min + boost; this.low = low + boost; this.high = high + boost;
    this.anon = lru[0] + lru[1]; this.file = lru[2] + lru[3];
    this.level = free < this.min ? "min" : free < this.low ? "low" : free < this.high ? "high" : "ok";
  }
  // Place in the bar, from 0 to 1: the square root of the share, so that watermarks of a percent are visible.
  at(pages) { return Math.sqrt(Math.min(1, pages / Math.max(1, this.present))); }
}

export class Model {
  constructor(machine) {
    this.machine = machine;
    this.nodes = new Map(machine.nodes.map((node) => [node.nid, { ...node, now: null, zones: [], names: "" }]));
    this.shape = 0; // changes when zones come or go: then everything is built again
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
  // The flows that are not over, the strongest first.
  flowing(clock, most = 64) {
    const found = [];
    for (const [key, flow] of this.flows) {
      const rate = this.#decayed(flow, clock);
      if (rate < SILENT * flow.rate) this.flows.delete(key); else found.push({ ...flow, rate });
    }
    return found.sort((a, b) => b.rate - a.rate).slice(0, most);
  }
}
