// Light or dark: what the system says, until somebody chooses. Returns a list of functions that draw anew.
import { $, say } from "./dom.js";

export function theme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const redraw = [];
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch { /* without storage the system's choice holds */ }
  const apply = () => {
    root.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
    say($("theme"), root.dataset.theme === "dark" ? "Light" : "Dark");
    for (const draw of redraw) draw();
  };
  dark.addEventListener("change", apply);
  $("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", chosen); } catch { /* without storage the choice lasts as long as the page */ }
    apply();
  });
  apply();
  return redraw;
}
