// A click on a box of a flame graph makes it as wide as the graph; what called it stays above it, pale.
"use strict";

function zoomFlame(box) {
  const graph = box.ownerSVGElement;
  const left = +box.dataset.left, share = +box.dataset.share, depth = +box.dataset.depth;
  for (const other of graph.querySelectorAll(".box")) {
    const begin = +other.dataset.left, width = +other.dataset.share;
    const above = +other.dataset.depth < depth && begin <= left + 1e-6 && begin + width >= left + share - 1e-6;
    const inside = +other.dataset.depth >= depth && begin >= left - 1e-6 && begin + width <= left + share + 1e-6;
    other.classList.toggle("ancestor", above);
    other.classList.toggle("away", !above && !inside);
    if (!above && !inside) continue;
    other.setAttribute("x", above ? "0%" : `${((begin - left) / share) * 100}%`);
    other.setAttribute("width", above ? "100%" : `${Math.min(100, (width / share) * 100)}%`);
  }
}

for (const kind of ["click", "keydown"]) {
  document.addEventListener(kind, (event) => {
    const box = event.target.closest && event.target.closest(".flame .box");
    if (box && (kind === "click" || event.key === "Enter")) zoomFlame(box);
  });
}
