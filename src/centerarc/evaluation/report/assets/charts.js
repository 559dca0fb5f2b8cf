"use strict";
(() => {
  const read = (key) => JSON.parse(document.getElementById(key).textContent);
  const [figures, pictures, steps] = [read("figures"), read("pictures"), read("steps")];
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

  // The slider: what each threshold accepts was counted beforehand, exactly.
  const slider = document.getElementById("threshold-step");
  if (slider && steps) {
    const says = document.getElementById("threshold-says");
    const histogram = figures.scores.layout;
    const percent = (rate) => (rate >= 0.1 ? (100 * rate).toFixed(1) : `${+(100 * rate).toPrecision(3)}`);
    const often = (rate) => (rate > 0.1 ? "" : rate > 0 ? ` (1 in ${Math.round(1 / rate).toLocaleString("en")})` : "");
    const show = () => {
      const step = Number(slider.value);
      const [threshold, far, tar] = [steps.threshold[step], steps.far[step], steps.tar[step]];
      const right = (steps.genuine * tar + steps.impostor * (1 - far)) / (steps.genuine + steps.impostor);
      says.textContent = `From ${threshold.toFixed(3)} upwards ${percent(tar)} % of the pairs of one person are accepted`
        + ` and ${percent(far)} % of the pairs of two people${often(far)}; ${percent(right)} % of all answers are right.`;
      slider.setAttribute("aria-valuetext", `threshold ${threshold.toFixed(3)}`);
      const [line] = histogram.shapes;
      const [note] = histogram.annotations;
      line.x0 = line.x1 = note.x = threshold;
      note.text = `threshold ${threshold.toFixed(3)}`;
      const [low, high] = histogram.xaxis.range;
      const left = threshold > (low + high) / 2;
      Object.assign(note, { xanchor: left ? "right" : "left", xshift: left ? -4 : 4 });
      const plot = document.querySelector('[data-chart="scores"]');
      if (!plot._fullLayout) return;
      Plotly.relayout(plot, coloured({ shapes: histogram.shapes, annotations: histogram.annotations }, getComputedStyle(document.documentElement)));
    };
    slider.max = steps.threshold.length - 1;
    slider.value = steps.start;
    slider.addEventListener("input", show);
    const button = (name, step) => {
      const made = document.createElement("button");
      Object.assign(made, { type: "button", textContent: name });
      made.addEventListener("click", () => { slider.value = step; show(); });
      document.getElementById("threshold-marks").append(made);
    };
    button("as reported", steps.start);
    for (const mark of steps.marks) button(mark.name, mark.step);
    document.getElementById("explore").hidden = false;
    show();
  }

  draw();
  dark.addEventListener("change", draw);

  const map = document.querySelector('[data-chart="map"]');
  if (!map) return;
  const traces = figures.map.data;
  const named = (trace) => traces[trace].name.replaceAll("_", " ");
  const tip = document.getElementById("tip");
  const live = document.getElementById("map-live");
  const hide = () => { tip.hidden = true; };
  const show = (trace, point) => {
    const layout = map._fullLayout;
    const box = map.getBoundingClientRect();
    const x = box.left + layout._size.l + layout.xaxis.d2p(traces[trace].x[point]);
    const y = box.top + layout._size.t + layout.yaxis.d2p(traces[trace].y[point]);
    tip.querySelector("img").src = pictures[trace][point];
    tip.querySelector("span").textContent = named(trace);
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${y - height - 14 > 8 ? y - height - 14 : y + 14}px`;
    return named(trace);
  };
  // A tap clicks; a mouse hovers.
  for (const name of ["plotly_hover", "plotly_click"])
    map.on(name, (event) => show(event.points[0].curveNumber, event.points[0].pointNumber));
  map.on("plotly_unhover", hide);
  map.addEventListener("blur", hide);
  window.addEventListener("scroll", hide, { passive: true });

  const sides = ["xaxis", "yaxis"];
  const whole = sides.map((side) => [...map._fullLayout[side].range]);
  const look = (ranges) => {
    hide();
    const near = ranges.some(([a, b], i) => Math.abs(b - a) < 0.999 * Math.abs(whole[i][1] - whole[i][0]));
    // A drag moves a map that is zoomed in; else, on a touch screen, it scrolls the page.
    const change = { dragmode: near ? "pan" : touch ? false : "zoom" };
    sides.forEach((side, i) => {
      change[`${side}.range`] = figures.map.layout[side].range = ranges[i];
      change[`${side}.fixedrange`] = figures.map.layout[side].fixedrange = touch && !near;
    });
    figures.map.layout.dragmode = change.dragmode;
    return Plotly.relayout(map, change);
  };
  const scaled = (factor) => sides.map((side, i) => {
    const [a, b] = map._fullLayout[side].range;
    const [middle, half] = [(a + b) / 2, (factor * (b - a)) / 2];
    return Math.abs(2 * half) >= Math.abs(whole[i][1] - whole[i][0]) ? whole[i] : [middle - half, middle + half];
  });
  const zoom = { "+": () => look(scaled(0.6)), "=": () => look(scaled(0.6)), "-": () => look(scaled(1 / 0.6)), "0": () => look(whole) };
  for (const [id, key] of [["map-in", "+"], ["map-out", "-"], ["map-reset", "0"]])
    document.getElementById(id).addEventListener("click", zoom[key]);

  const points = pictures.flatMap((group, trace) => group.map((_, point) => [trace, point]));
  let current = -1;
  map.addEventListener("keydown", async (event) => {
    if (event.key === "Escape") return hide();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (zoom[event.key]) return event.preventDefault(), zoom[event.key]();
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    current = (current + move + points.length) % points.length;
    const [trace, point] = points[current];
    const at = [traces[trace].x[point], traces[trace].y[point]];
    const ranges = sides.map((side) => map._fullLayout[side].range);
    const inside = at.every((value, i) => (value - ranges[i][0]) * (value - ranges[i][1]) <= 0);
    if (!inside) await look(ranges.map(([a, b], i) => [at[i] - (b - a) / 2, at[i] + (b - a) / 2]));
    live.textContent = show(trace, point);
  });

  // For whoever cannot use the map; the pictures are the same, so they are put in when asked for.
  const list = document.getElementById("map-list");
  list.addEventListener("toggle", () => {
    const room = list.querySelector("div");
    if (!list.open || room.firstChild) return;
    const people = document.createElement("ul");
    people.className = "people";
    traces.forEach((_, trace) => {
      const person = document.createElement("li");
      person.textContent = named(trace);
      const faces = document.createElement("ul");
      pictures[trace].forEach((source, number) => {
        const face = document.createElement("img");
        Object.assign(face, { src: source, alt: `${named(trace)}, face ${number + 1}` });
        faces.append(document.createElement("li"));
        faces.lastChild.append(face);
      });
      person.append(faces);
      people.append(person);
    });
    room.append(people);
  });
})();
