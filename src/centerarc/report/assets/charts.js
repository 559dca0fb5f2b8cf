"use strict";
(() => {
  const read = (key) => JSON.parse(document.getElementById(key).textContent);
  const [figures, pictures, steps] = [read("figures"), read("pictures"), read("steps")];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // On a touch screen a drag scrolls the page instead of zooming a chart.
  const touch = window.matchMedia("(pointer: coarse)").matches;

  // Colors are names of custom properties; plotly wants their values.
  const colored = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((item) => colored(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, colored(item, style)]));
    return value;
  };
  const axis = {
    gridcolor: "--grid", linecolor: "--line", zeroline: false, automargin: true, fixedrange: touch, nticks: 6,
    spikemode: "across", spikesnap: "hovered data", spikethickness: 1, spikedash: "dot", spikecolor: "--muted",
  };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "--muted" },
    margin: { l: 52, r: 14, t: 16, b: 44 }, dragmode: touch ? false : "zoom",
    legend: { orientation: "h", x: 0, y: 1.03, yanchor: "bottom" },
    hoverlabel: { bgcolor: "--card", bordercolor: "--line", font: { color: "--ink" } },
  };
  const map = document.querySelector('[data-chart="map"]');
  if (map) {
    // The ring around the face that is shown.
    const ring = { symbol: "circle-open", size: 22, color: "--ink", line: { width: 2.5 } };
    if (innerWidth < 500) for (const trace of figures.map.data) trace.marker.size = 8;
    figures.map.data.push({ type: "scatter", mode: "markers", x: [], y: [], marker: ring, hoverinfo: "skip", cliponaxis: false });
  }
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const plot of document.querySelectorAll(".plot")) {
      const figure = figures[plot.dataset.chart];
      const layout = { ...base, ...figure.layout };
      layout.showlegend ??= figure.data.filter((trace) => trace.name && trace.showlegend !== false).length > 1;
      if (touch) layout.hovermode = "closest";
      if (layout.showlegend) layout.margin = { ...layout.margin, t: 40 };
      for (const side of ["xaxis", "yaxis"]) layout[side] = { ...axis, showspikes: plot !== map, ...figure.layout[side] };
      Plotly.react(plot, colored(figure.data, style), colored(layout, style), { responsive: true, displayModeBar: false });
    }
  };

  // The slider: what each threshold accepts was counted beforehand, exactly.
  const slider = document.getElementById("threshold-step");
  let align = () => {};
  if (slider && steps) {
    const says = document.getElementById("threshold-says");
    const histogram = figures.scores.layout;
    const plot = document.querySelector('[data-chart="scores"]');
    const count = steps.far.length - 1;
    const percent = (rate) => (rate >= 0.1 ? (100 * rate).toFixed(1) : `${+(100 * rate).toPrecision(3)}`) + "%";
    const often = (rate) => (rate > 0.1 ? "" : rate > 0 ? ` (1 in ${Math.round(1 / rate).toLocaleString("en")})` : "");
    const mark = ({ threshold, far, tar }) => {
      for (const key of ["roc", "det"]) {
        const at = figures[key].data.findIndex((trace) => trace.meta?.threshold);
        const trace = figures[key].data[at];
        const { rejects, floor } = trace.meta;
        trace.x = [Math.max(100 * far, floor[0])];
        trace.y = [Math.max(100 * (rejects ? 1 - tar : tar), floor[1])];
        trace.text = [threshold.toFixed(3)];
        const chart = document.querySelector(`[data-chart="${key}"]`);
        if (chart._fullLayout) Plotly.restyle(chart, { x: [trace.x], y: [trace.y], text: [trace.text] }, [at]);
      }
    };
    const show = (step) => {
      const { threshold, far, tar } = step;
      const right = (steps.genuine * tar + steps.impostor * (1 - far)) / (steps.genuine + steps.impostor);
      says.textContent = `From ${threshold.toFixed(3)} upwards ${percent(tar)} of the pairs of one person are accepted`
        + ` and ${percent(far)} of the pairs of two people${often(far)}; ${percent(right)} of all answers are right.`;
      slider.setAttribute("aria-valuetext", `threshold ${threshold.toFixed(3)}`);
      const [line] = histogram.shapes;
      const [note] = histogram.annotations;
      line.x0 = line.x1 = note.x = threshold;
      note.text = `threshold ${threshold.toFixed(3)}`;
      const [low, high] = histogram.xaxis.range;
      const left = threshold > (low + high) / 2;
      Object.assign(note, { xanchor: left ? "right" : "left", xshift: left ? -4 : 4 });
      mark(step);
      if (!plot._fullLayout) return;
      Plotly.relayout(plot, colored({ shapes: histogram.shapes, annotations: histogram.annotations }, getComputedStyle(document.documentElement)));
    };
    const place = (threshold) => Math.round((count * (threshold - steps.low)) / (steps.high - steps.low));
    slider.max = count;
    slider.addEventListener("input", () => {
      const step = Number(slider.value);
      const threshold = Math.min(steps.high, steps.low + ((steps.high - steps.low) * step) / count);
      show({ threshold, far: steps.far[step], tar: steps.tar[step] });
    });
    for (const named of steps.marks) {
      const made = document.createElement("button");
      Object.assign(made, { type: "button", textContent: named.name });
      made.addEventListener("click", () => { slider.value = place(named.threshold); show(named); });
      document.getElementById("threshold-marks").append(made);
    }
    // The middle of the thumb stands under the threshold's line.
    align = () => {
      const { l, w } = plot._fullLayout._size;
      const thumb = 20;
      const left = plot.getBoundingClientRect().left - slider.parentElement.getBoundingClientRect().left;
      slider.style.marginLeft = `${left + l - thumb / 2}px`;
      slider.style.width = `${w + thumb}px`;
    };
    document.getElementById("explore").hidden = false;
    slider.value = place(steps.marks[0].threshold);
    show(steps.marks[0]);
  }

  draw();
  dark.addEventListener("change", draw);
  if (slider && steps) {
    document.querySelector('[data-chart="scores"]').on("plotly_afterplot", align);
    align();
  }

  // What a mouse learns by pointing, keys learn by walking, and a finger reads below the chart.
  const told = (plot) => [...plot.querySelectorAll(".hoverlayer .hovertext text")]
    .flatMap((text) => { const lines = [...text.querySelectorAll("tspan.line")]; return lines.length ? lines : [text]; })
    .map((line) => line.textContent).filter(Boolean).join(", ");
  for (const plot of document.querySelectorAll(".plot")) {
    if (plot === map) continue;
    const readout = document.getElementById(`${plot.dataset.chart}-readout`);
    const ranges = () => ["xaxis", "yaxis"].map((side) => [plot._fullLayout[side], [...plot._fullLayout[side].range].sort((a, b) => a - b)]);
    const seen = (trace) => {
      const [[x, [left, right]], [y, [low, high]]] = ranges();
      return [...trace.x.keys()].filter((point) => {
        const [at, up] = [x.d2l(trace.x[point]), y.d2l(trace.y[point])].map((value, i) => [x, y][i].l2r(value));
        return at >= left && at <= right && up >= low && up <= high;
      });
    };
    let [row, place] = [0, -1];
    plot.addEventListener("focus", () => {
      if (plot.matches(":focus-visible")) readout.textContent = "Arrow keys: left and right along a curve, up and down between curves.";
    });
    plot.addEventListener("blur", () => { readout.textContent = ""; Plotly.Fx.unhover(plot); });
    plot.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") return Plotly.Fx.unhover(plot);
      const along = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      const across = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!along && !across) return;
      event.preventDefault();
      const rows = [...plot.data.keys()].filter((trace) => plot.data[trace].hoverinfo !== "skip" && seen(plot.data[trace]).length);
      if (!rows.length) return;
      const before = plot.data[rows[row % rows.length]];
      const from = place < 0 ? null : seen(before)[Math.min(place, seen(before).length - 1)];
      if (across) {
        row = (row + across + rows.length) % rows.length;
        // The point of the other curve that is nearest along the axis.
        const points = seen(plot.data[rows[row]]);
        const along = (trace, point) => plot._fullLayout.xaxis.d2l(trace.x[point]);
        const far = (point) => Math.abs(along(plot.data[rows[row]], point) - along(before, from));
        place = from === null ? 0 : points.reduce((best, point, i) => (far(point) < far(points[best]) ? i : best), 0);
      }
      const points = seen(plot.data[rows[row % rows.length]]);
      if (along) place = Math.max(0, Math.min(points.length - 1, place + along));
      Plotly.Fx.hover(plot, [{ curveNumber: rows[row % rows.length], pointNumber: points[place] }]);
    });
    // Plotly draws a label some time after it is asked, and sends no event unless a mouse caused it.
    new MutationObserver(() => {
      const text = touch || document.activeElement === plot ? told(plot) : "";
      if (text && text !== readout.textContent) readout.textContent = text;
    }).observe(plot.querySelector(".hoverlayer"), { childList: true, subtree: true });
  }

  // What scrolls can be reached by keys, and nothing else is in their way.
  const reach = (box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => reach(entry.target)));
  for (const box of document.querySelectorAll(".table, .scroll, pre")) sizes.observe(box);

  if (!map) return;
  const traces = figures.map.data;
  const named = (trace) => traces[trace].name.replaceAll("_", " ");
  const tip = document.getElementById("tip");
  const live = document.getElementById("map-live");
  const ring = traces.length - 1;
  let chosen = null;
  const hide = () => { tip.hidden = true; };
  const choose = (face) => {
    chosen = face;
    const [x, y] = ["x", "y"].map((side) => (face ? [traces[face[0]][side][face[1]]] : []));
    Object.assign(traces[ring], { x, y });
    Plotly.restyle(map, { x: [x], y: [y] }, [ring]);
  };
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
  const pointed = (event) => [event.points[0].curveNumber, event.points[0].pointNumber];
  map.on("plotly_hover", (event) => show(...pointed(event)));
  map.on("plotly_click", (event) => { choose(pointed(event)); show(...chosen); });
  map.on("plotly_unhover", hide);
  map.addEventListener("blur", hide);
  window.addEventListener("scroll", hide, { passive: true });

  const sides = ["xaxis", "yaxis"];
  const whole = sides.map((side) => [...map._fullLayout[side].range]);
  const position = () => chosen && [traces[chosen[0]].x[chosen[1]], traces[chosen[0]].y[chosen[1]]];
  const within = (at) => sides.every((side, i) => {
    const [a, b] = map._fullLayout[side].range;
    return (at[i] - a) * (at[i] - b) <= 0;
  });
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
    return Plotly.relayout(map, change).then(() => chosen && within(position()) && show(...chosen));
  };
  // As it is now: a ring must not change it.
  look(whole);
  const scaled = (factor) => {
    // About the face that is shown, so that it stays in view.
    const kept = chosen && within(position()) ? position() : null;
    return sides.map((side, i) => {
      const [a, b] = map._fullLayout[side].range;
      const middle = (a + b) / 2;
      const at = kept ? kept[i] : chosen && factor < 1 ? position()[i] : middle;
      if (factor * Math.abs(b - a) >= Math.abs(whole[i][1] - whole[i][0])) return whole[i];
      const [from, half] = [kept ? at : middle, (factor * (b - a)) / 2];
      return kept ? [from - factor * (at - a), from + factor * (b - at)] : [at - half, at + half];
    });
  };
  const zoom = { "+": () => look(scaled(0.6)), "=": () => look(scaled(0.6)), "-": () => look(scaled(1 / 0.6)), "0": () => look(whole) };
  for (const [id, key] of [["map-in", "+"], ["map-out", "-"], ["map-reset", "0"]])
    document.getElementById(id).addEventListener("click", zoom[key]);

  const points = pictures.flatMap((group, trace) => group.map((_, point) => [trace, point]));
  map.addEventListener("keydown", async (event) => {
    if (event.key === "Escape") return choose(null), hide();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (zoom[event.key]) return event.preventDefault(), zoom[event.key]();
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const before = chosen ? points.findIndex(([trace, point]) => trace === chosen[0] && point === chosen[1]) : move > 0 ? -1 : 0;
    choose(points[(before + move + points.length) % points.length]);
    live.textContent = named(chosen[0]);
    const at = position();
    if (within(at)) return void show(...chosen);
    await look(sides.map((side, i) => {
      const [a, b] = map._fullLayout[side].range;
      return [at[i] - (b - a) / 2, at[i] + (b - a) / 2];
    }));
  });

  // The marker of a person, for the list.
  const shapes = { circle: "M1 6a5 5 0 1 0 10 0a5 5 0 1 0-10 0", diamond: "M6 0L12 6L6 12L0 6Z", square: "M1 1H11V11H1Z" };
  const symbol = (marker) => {
    const [image, path] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
    for (const [name, value] of Object.entries({ viewBox: "0 0 12 12", width: "12", height: "12", "aria-hidden": "true" }))
      image.setAttribute(name, value);
    path.setAttribute("d", shapes[marker.symbol]);
    path.style.fill = `var(${marker.color})`;
    image.append(path);
    return image;
  };
  // For readers who cannot use the map; the pictures are the same, so they are added on request.
  const list = document.getElementById("map-list");
  list.addEventListener("toggle", () => {
    const room = list.querySelector("div");
    if (!list.open || room.firstChild) return;
    const people = document.createElement("ul");
    people.className = "people";
    pictures.forEach((_, trace) => {
      const person = document.createElement("li");
      person.append(symbol(traces[trace].marker), named(trace));
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
