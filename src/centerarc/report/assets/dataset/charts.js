"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // On a touch screen a drag must scroll the page.
  const touch = matchMedia("(pointer: coarse)").matches;
  const side = { gridcolor: "--grid", linecolor: "--line", zeroline: false, automargin: true, fixedrange: true, nticks: 6 };

  // Names of custom properties become their values, whatever they stand in.
  const withColours = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((item) => withColours(item, style));
    if (!value || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withColours(item, style)]));
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const place of document.querySelectorAll("[data-chart]")) {
      const { data, layout } = figures[place.dataset.chart];
      const whole = {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "--muted" },
        margin: { l: 48, r: 14, t: layout.showlegend ? 36 : 12, b: 44 },
        showlegend: false, dragmode: false, hovermode: touch ? "closest" : "x",
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        hoverlabel: { bgcolor: "--card", bordercolor: "--line", font: { color: "--ink" } },
        ...layout, xaxis: { ...side, ...layout.xaxis }, yaxis: { ...side, ...layout.yaxis },
      };
      Plotly.react(place, withColours(data, style), withColours(whole, style), { responsive: true, displayModeBar: false });
    }
  };
  draw();
  dark.addEventListener("change", draw);
})();
