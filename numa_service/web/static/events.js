// The event feed, newest first.
import { h } from "./dom.js";

const KEPT = 100;
const AT_ONCE = 24; // most events added at a time: a machine in trouble has more than anybody reads
const time = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

export class EventList {
  #last = 0;
  constructor(list) { this.list = list; }
  add(events) {
    const fresh = events.filter(([id]) => id > this.#last);
    if (!fresh.length) return;
    this.#last = fresh.at(-1)[0];
    this.list.querySelector(".none")?.remove();
    const items = fresh.slice(-AT_ONCE).reverse().map(([, at, nid, kind, text]) => h("li", { "data-kind": kind },
      h("time", { text: time.format(new Date(at * 1000)) }), h("span", { class: "at", text: `node ${nid}` }), h("span", { class: "text", text })));
    this.list.prepend(...items);
    while (this.list.childElementCount > KEPT) this.list.lastElementChild.remove();
  }
}
