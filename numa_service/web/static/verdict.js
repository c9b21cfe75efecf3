// The picture of a verdict: the zones in the order of the walk, each with what it had free and what had to stay free.
import { $, ask, count, h, s, say } from "./dom.js";
import { theme } from "./theme.js";

const WIDE = 1000, HIGH = 24;

// Place in a bar: the square root of the share, so that marks of a percent of the free pages are visible.
const scale = (most) => (pages) => WIDE * Math.sqrt(Math.min(1, Math.max(0, pages) / Math.max(1, most)));

function bar(zone) {
  const needed = zone.lowered + zone.reserve + zone.cost;
  const at = scale(1.05 * Math.max(zone.free, needed, zone.high + zone.reserve));
  const usable = zone.free - zone.highatomic - zone.cma;
  const rect = (name, from, to, y, high) => s("rect", { class: name, x: from.toFixed(1), y, width: Math.max(0, to - from).toFixed(1), height: high });
  const mark = (name, pages) => s("line", { class: `tick ${name}`, x1: at(pages).toFixed(1), x2: at(pages).toFixed(1), y1: 0, y2: HIGH });
  const parts = [rect("track", 0, WIDE, 0, HIGH)];
  if (zone.kind !== "out") parts.push(rect("need", 0, at(needed), 0, HIGH));
  parts.push(rect("free", 0, at(usable), 6, HIGH - 12));
  if (zone.free > usable) parts.push(rect("kept", at(usable), at(zone.free), 6, HIGH - 12));
  if (zone.kind !== "out") parts.push(mark("t-need", needed), mark("t-high", zone.high + zone.reserve));
  return s("svg", { class: "bar-of", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts);
}

function told(zone, order, page_kb) {
  switch (zone.kind) {
    case "out": return zone.outcome;
    case "below": return zone.short ? `${count(zone.short)} pages short` : "just at its mark";
    case "pieces": return `no block of ${count(page_kb * 2 ** order)} kB`;
    case "try": return `${count(zone.short_of_high)} pages short of high`;
    default: return `${count(-zone.short)} pages above`;
  }
}

function step(zone, number) {
  const name = `node ${zone.node} ${zone.zone}`;
  return h("li", { class: "step", "data-kind": zone.kind, tabindex: 0 },
    h("span", { class: "stop", text: zone.kind === "out" ? "–" : number, "aria-hidden": "true" }),
    h("div", { class: "zone-of" },
      h("p", { class: "head" }, h("b", { text: name }), h("span", { text: zone.short_text })),
      bar(zone),
      h("p", { class: "sum", text: zone.text })));
}

const lines = (id, texts) => $(id).replaceChildren(...texts.map((text) => h("li", { text })));

function show(answer) {
  document.title = `why: ${answer.request.comm || "a report"}`;
  say($("name"), answer.headline);
  say($("facts"), `up to ${answer.request.highest_zone} · pages of ${answer.page_kb} kB`);
  $("answer").dataset.explained = answer.explained;
  say($("first"), answer.verdict[0]);
  lines("more", [...answer.used_up, ...answer.verdict.slice(1)]);
  let number = 0;
  $("steps").replaceChildren(...answer.zones.map((zone) => {
    if (zone.kind !== "out") number += 1;
    return step({ ...zone, short_text: told(zone, Math.max(0, answer.request.order ?? 0), answer.page_kb) }, number);
  }));
  $("served").hidden = !answer.claims.length;
  $("claims").replaceChildren(...answer.claims.map((claim) =>
    h("li", { "data-helps": String(claim.helps) }, h("b", { text: claim.helps ? "yes" : "no" }), h("span", { text: claim.text }), h("span", { class: "line", text: claim.result }))));
  lines("advice", answer.advice);
  lines("held", answer.held);
  lines("notes", answer.notes);
  document.body.dataset.shown = "yes";
}

theme();
ask("api/verdict").then(show, (error) => say($("first"), error.message));
