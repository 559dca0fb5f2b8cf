"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // On a touch screen a drag scrolls the page instead of zooming a chart.
  const touch = window.matchMedia("(pointer: coarse)").matches;

  // Colours are names of custom properties; plotly wants their values.
  const coloured = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((item) => coloured(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
    return value;
  };
  const axis = { gridcolor: "--grid", linecolor: "--line", zeroline: false, automargin: true, fixedrange: touch, nticks: 6 };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "--muted" },
    margin: { l: 52, r: 14, t: 16, b: 44 }, showlegend: false, dragmode: touch ? false : "zoom",
    legend: { orientation: "h", x: 0, y: 1.03, yanchor: "bottom" },
    hoverlabel: { bgcolor: "--card", bordercolor: "--line", font: { color: "--ink" } },
  };
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const plot of document.querySelectorAll(".plot")) {
      const figure = figures[plot.dataset.chart];
      const layout = { ...base, ...figure.layout };
      if (layout.showlegend) layout.margin = { ...layout.margin, t: 40 };
      for (const side of ["xaxis", "yaxis"]) layout[side] = { ...axis, ...figure.layout[side] };
      Plotly.react(plot, coloured(figure.data, style), coloured(layout, style), { responsive: true, displayModeBar: false });
    }
  };
  draw();
  dark.addEventListener("change", draw);

  const map = document.querySelector('[data-chart="map"]');
  if (!map) return;
  const tip = document.getElementById("tip");
  const live = document.getElementById("map-live");
  const hide = () => { tip.hidden = true; };
  const show = (trace, point) => {
    const name = figures.map.data[trace].name.replaceAll("_", " ");
    const layout = map._fullLayout;
    const box = map.getBoundingClientRect();
    const x = box.left + layout._size.l + layout.xaxis.d2p(figures.map.data[trace].x[point]);
    const y = box.top + layout._size.t + layout.yaxis.d2p(figures.map.data[trace].y[point]);
    tip.querySelector("img").src = pictures[trace][point];
    tip.querySelector("span").textContent = name;
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${y - height - 14 > 8 ? y - height - 14 : y + 14}px`;
    return name;
  };
  // A tap clicks; a mouse hovers.
  for (const name of ["plotly_hover", "plotly_click"])
    map.on(name, (event) => show(event.points[0].curveNumber, event.points[0].pointNumber));
  map.on("plotly_unhover", hide);
  map.addEventListener("blur", hide);
  window.addEventListener("scroll", hide, { passive: true });

  const points = pictures.flatMap((group, trace) => group.map((_, point) => [trace, point]));
  let current = -1;
  map.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    current = (current + move + points.length) % points.length;
    live.textContent = show(...points[current]);
  });
})();
