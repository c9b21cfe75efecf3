// Puts the parts together: the model takes each push at once, and is drawn once a frame of the screen.
import { $, ask, bytes, say } from "./dom.js";
import { Boot } from "./boot.js";
import { EventList } from "./events.js";
import { Heat } from "./heat.js";
import { Model } from "./model.js";
import { NodePanel } from "./node.js";
import { Picture } from "./picture.js";
import { theme } from "./theme.js";
import { Why } from "./why.js";

const BUDGET_MS = 4; // time that drawing nodes may take of one frame
const FLOWS_MS = 150; // interval at which arrows are drawn
const SLOW_MS = 200; // interval at which everything else is drawn

function facts(model) {
  const nodes = [...model.nodes.values()];
  const sum = (of) => nodes.reduce((total, node) => total + node.zones.reduce((n, zone) => n + of(zone), 0), 0);
  const cpus = nodes.reduce((n, node) => n + node.cpus.length, 0);
  say($("facts"), `${model.machine.profile} · ${nodes.length} nodes · ${cpus} CPUs · ${bytes(sum((z) => z.free))} free of ${bytes(sum((z) => z.managed))}`);
}

function status(state, text) { $("status").dataset.state = state; say($("status"), text); }

async function start() {
  const redraw = theme();
  const machine = await ask("api/machine");
  say($("name"), machine.name);
  document.title = `${machine.name} · numa-service`;
  const model = new Model(machine);
  // the map of free blocks takes the page's whole width on a large machine
  document.body.classList.toggle("many", machine.nodes.length > 8);
  const panel = new NodePanel($("node-title"), $("node-body"), model);
  const heat = new Heat($("heat-map"), $("heat-cell"), model);
  const events = new EventList($("events-list"));
  const picture = new Picture($("stage"), model, {
    onselect: (nid) => { panel.show(nid); why.select(nid); },
    onopen: (nid) => { why.select(nid); why.explain(); },
  });
  const why = new Why(model, (nids) => { picture.light(nids); setTimeout(() => picture.light(new Set()), 2500); });
  const boot = new Boot((nids) => picture.light(nids));
  redraw.push(() => heat.redraw());
  panel.show(picture.selected); why.select(picture.selected);
  await boot.load();

  // Nodes that changed are drawn one by one until BUDGET_MS are used up; the others follow in the next frames.
  const dirty = new Set(), seen = new Set();
  let asked = false, flowed = 0, told = 0, paused = false, late = [], news = [];
  const draw = (clock) => {
    asked = false;
    if (paused) return;
    const end = performance.now() + BUDGET_MS;
    for (const nid of dirty) {
      dirty.delete(nid); seen.add(nid);
      picture.update([nid]);
      panel.update([nid]);
      if (performance.now() > end) break;
    }
    if (clock - told >= SLOW_MS) {
      told = clock;
      heat.update([...seen]); seen.clear();
      facts(model);
      events.add(news); news = [];
    } else if (clock - flowed >= FLOWS_MS) { flowed = clock; picture.flow(model.flowing(performance.now())); }
    if (dirty.size || seen.size || news.length || model.flows.size) wake();
  };
  const wake = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
  const take = ({ n, e }) => {
    model.take(n, performance.now());
    for (const nid of Object.keys(n)) dirty.add(Number(nid));
    news.push(...e);
    wake();
  };

  const feed = new EventSource("api/feed");
  feed.onopen = () => status(paused ? "wait" : "live", paused ? "paused" : "live");
  feed.onerror = () => status("lost", feed.readyState === EventSource.CLOSED ? "not connected" : "reconnecting");
  feed.onmessage = ({ data }) => { if (paused) late.push(data); else take(JSON.parse(data)); if (late.length > 600) late.shift(); };
  window.addEventListener("pagehide", () => feed.close());

  $("pause").addEventListener("click", () => {
    paused = !paused;
    $("pause").setAttribute("aria-pressed", paused);
    document.body.classList.toggle("still", paused);
    say($("pause"), paused ? "Go on" : "Pause");
    status(paused ? "wait" : "live", paused ? "paused" : "live");
    if (!paused) { for (const data of late) take(JSON.parse(data)); late = []; wake(); }
  });
  $("help").addEventListener("click", () => $("keys").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || $("keys").open) return;
    const does = { p: () => $("pause").click(), t: () => $("theme").click(), "?": () => $("help").click(), "[": () => boot.step(-1), "]": () => boot.step(1) }[event.key];
    if (does) { event.preventDefault(); does(); }
  });
}

start().catch((error) => status("lost", error.message));
