// Every lane at once: maps over two axes, or final cost over one; a click chooses a lane.

const SYMBOLS = { pending: "circle-open", converged: "circle", trapped: "square", oscillating: "diamond", descending: "triangle-down", diverged: "x", stopped: "cross" };

class Maps {
  constructor(section, grid, choose) {
    [this.grid, this.choose] = [grid, choose];
    this.root = section.querySelector(".maps");
    this.label = section.getAttribute("aria-label");
    this.plots = [];
    if (!this.root) return;
    const longest = [...grid.scales].sort((a, b) => grid.axes[b].values.length - grid.axes[a].values.length || a - b).slice(0, 2);
    [this.up, this.across] = longest.length === 2 ? longest.sort((a, b) => a - b) : [null, longest[0]];
    this.layers = this.up === null ? [this.strip()] : this.mapsOf();
    for (const layer of this.layers) {
      const div = document.createElement("div");
      div.className = this.up === null ? "plot map wide" : "plot map";
      div.tabIndex = 0;
      div.setAttribute("role", "img");
      div.setAttribute("aria-label", `${layer.heading}, for every lane. Arrow keys choose the lane.`);
      div.addEventListener("keydown", (event) => this.step(event));
      this.root.append(div);
      this.plots.push(div);
    }
  }

  // --- over two axes ---

  mapsOf() {
    const { figures, height, known_minima: minima } = this.grid;
    this.there = [...new Set(figures.outcome)].filter((code) => isThere(this.grid, code)).sort();
    const found = this.there.length > 1 ? [{ name: "outcome", heading: "Outcome" }] : []; // one alone is said in words
    if (figures.height.some((value) => value !== figures.height[0])) found.push({ name: "height", heading: height.label[0].toUpperCase() + height.label.slice(1), log: height.log });
    const epochs = figures.target_epoch ? "target_epoch" : "best_epoch";
    found.push({ name: epochs, heading: figures.target_epoch ? "Epochs to the target" : "Epoch of the lowest cost", log: wide(figures[epochs]) });
    if (minima && figures.minimum && new Set(figures.minimum.filter((value) => value >= 0)).size > 1) found.push({ name: "minimum", heading: "Which minimum was reached" });
    return found;
  }

  // The figures of one cut through the grid, a row for each value up.
  cut(name, place) {
    const { axes, strides, figures } = this.grid, values = figures[name];
    const base = this.grid.lane(place.with(this.up, 0).with(this.across, 0));
    const rows = [];
    for (let i = 0; i < axes[this.up].values.length; i += 1) {
      const row = new Array(axes[this.across].values.length);
      for (let j = 0; j < row.length; j += 1) row[j] = values[base + i * strides[this.up] + j * strides[this.across]];
      rows.push(row);
    }
    return rows;
  }

  drawnCut(layer, place) {
    const rows = this.cut(layer.name, place), codes = this.cut("outcome", place);
    const drawn = (value) => (layer.name !== "height" && value < 0 ? null : layer.log ? Math.log10(value) : value);
    const cell = layer.name === "outcome" ? (code) => this.there.indexOf(code) : drawn;
    return rows.map((row, i) => row.map((value, j) => (isThere(this.grid, codes[i][j]) ? cell(value) : null)));
  }

  mapTraces(layer, place) {
    return [...this.heatTraces(layer, place), ...this.limitLine(place)];
  }

  heatTraces(layer, place) {
    const x = edges(this.grid.alongAxis(this.across, place)), y = edges(this.grid.alongAxis(this.up, place));
    const trace = { type: "heatmap", x, y, z: this.drawnCut(layer, place), hoverinfo: "none", colorscale: "Viridis", zsmooth: false };
    if (layer.name === "outcome") return [{ ...trace, ...patches(this.there, this.grid.outcomes.map(colourOf), this.grid.outcomes) }];
    if (layer.name === "minimum") {
      const points = this.grid.known_minima, names = points.map((point) => `(${point.map((v) => Number(v.toPrecision(3))).join(", ")})`);
      const colours = points.map((_, i) => viridis(i / Math.max(1, points.length - 1)));
      return [{ ...trace, ...patches([...names.keys()], colours, names) }, ...this.stars(points)];
    }
    const bar = { thickness: 12, outlinewidth: 0, tickfont: { color: colourOf("quiet") }, exponentformat: "power" };
    if (layer.log) Object.assign(bar, this.tensOf(layer));
    return [{ ...trace, colorbar: bar }];
  }

  // The known minima, where the map is one of starts.
  stars(points) {
    const parts = [this.across, this.up].map((i) => this.grid.axes[i].name.match(/^(.+)_(\d+)$/));
    if (!parts.every(Boolean) || parts[0][1] !== parts[1][1] || points[0].length !== 2) return [];
    const [x, y] = parts.map((part) => points.map((point) => point[Number(part[2])]));
    return [{ type: "scatter", mode: "markers", x, y, marker: { symbol: "star", size: 12, color: "#000000", line: { color: "#ffffff", width: 1 } }, hoverinfo: "skip" }];
  }

  tensOf(layer) {
    const values = Array.from(this.grid.figures[layer.name]).filter((value) => value > 0).map(Math.log10);
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
    const step = Math.max(1, Math.round((high - low) / 6)), tickvals = [];
    for (let power = Math.ceil(low); power <= high; power += step) tickvals.push(power);
    return tickvals.length > 1 ? { tickvals, ticktext: tickvals.map((power) => `10<sup>${power}</sup>`) } : { ticktext: undefined };
  }

  // --- over one axis ---

  strip() {
    return { name: "strip", heading: `${this.grid.height.label[0].toUpperCase()}${this.grid.height.label.slice(1)} over ${this.grid.axes[this.across].name}` };
  }

  stripTraces(place) {
    const { axes, figures, outcomes } = this.grid, along = this.grid.alongAxis(this.across, place).values;
    const repeats = axes.findIndex((axis) => axis.kind === "replicate");
    const sorts = outcomes.map((name) => ({ name, x: [], y: [], lanes: [] }));
    for (let at = 0; at < along.length; at += 1) {
      if (!Number.isFinite(along[at])) continue;
      for (let again = 0; again < (repeats < 0 ? 1 : axes[repeats].values.length); again += 1) {
        const here = place.with(this.across, at), lane = this.grid.lane(repeats < 0 ? here : here.with(repeats, again));
        const sort = sorts[figures.outcome[lane]];
        if (!sort || sort.name === "pending") continue; // not there, or not run
        sort.x.push(along[at]);
        sort.y.push(figures.height[lane]);
        sort.lanes.push(lane);
      }
    }
    return sorts.filter(({ x }) => x.length).map(({ name, x, y, lanes }) => ({
      type: "scatter", mode: "markers", name: name === "diverged" ? "diverged (along the top)" : name, x, y, customdata: lanes, hoverinfo: "none",
      marker: { color: colourOf(name), symbol: SYMBOLS[name], size: 6 }, cliponaxis: false,
    }));
  }

  // --- drawing ---

  build(place) {
    this.plot(place, Plotly.newPlot);
    this.plots.forEach((div) => this.listen(div));
  }

  // With Plotly.react in place of newPlot, what is there already changes: that is quicker.
  plot(place, how) {
    this.layers.forEach((layer, i) => {
      const across = this.grid.alongAxis(this.across, place);
      const xaxis = { title: { text: plain(across.name) }, type: axisType(across), showgrid: this.up === null, zeroline: false };
      const { height } = this.grid;
      const up = this.up === null ? null : this.grid.alongAxis(this.up, place);
      const yaxis = up
        ? { title: { text: plain(up.name) }, type: axisType(up), showgrid: false, zeroline: false }
        : { title: { text: height.label }, type: height.log ? "log" : "linear", zeroline: false };
      if (up) for (const [axis, along] of [[xaxis, across], [yaxis, up]]) axis.range = extent(along); // whatever else is drawn on it
      if (axisType(across) === "log") xaxis.dtick = logTick(across.values);
      if (up && axisType(up) === "log") yaxis.dtick = logTick(up.values);
      if (!up && height.log) yaxis.nticks = 7;
      const legend = up ? {} : { showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left", font: { size: 11 } }, margin: { l: 56, r: 16, t: 56, b: 58 } };
      how(this.plots[i], up ? this.mapTraces(layer, place) : this.stripTraces(place), plotLayout({
        title: heading(`${layer.heading}${i === 0 && up && this.limitLine(place).length ? "; dashed: known limit" : ""}`), xaxis, yaxis, shapes: this.cross(place), ...legend,
      }), PLOT_CONFIG);
    });
    this.drawn = this.cutKey(place);
  }

  listen(div) {
    const tip = document.getElementById("tip");
    div.removeAllListeners?.();
    div.on("plotly_click", ({ points }) => this.choose(this.placeAt(points[0])));
    div.on("plotly_hover", ({ points, event }) => {
      tip.textContent = this.told(this.placeAt(points[0]));
      tip.hidden = false;
      const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
      const above = event.clientY + 18 + tip.offsetHeight > window.innerHeight;
      tip.style.left = `${Math.max(4, left)}px`;
      tip.style.top = `${above ? event.clientY - tip.offsetHeight - 12 : event.clientY + 18}px`;
    });
    div.on("plotly_unhover", () => { tip.hidden = true; });
  }

  placeAt(point) {
    if (this.up === null) return this.grid.placeOf(point.customdata);
    const [row, column] = point.pointIndex ?? point.pointNumber;
    return this.place.with(this.up, row).with(this.across, column);
  }

  // A lane's figures, a line each.
  told(place) {
    const lines = this.grid.setting(place).map(([name, value]) => `${name} = ${value}`);
    return [...lines, ...figuresOf(this.grid, place).map(([name, value]) => `${name}: ${value}`)].join("\n");
  }

  cross(place) {
    const line = { color: colourOf("ink"), width: 1, dash: "dot" };
    const x = this.grid.alongAxis(this.across, place).values[place[this.across]];
    const shapes = Number.isFinite(x) ? [{ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line }] : [];
    if (this.up === null) return [...shapes, ...this.limitMark(place)];
    const y = this.grid.alongAxis(this.up, place).values[place[this.up]];
    const halo = { ...line, color: colourOf("paper"), width: 3, dash: "solid" };
    const across = { type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: y, y1: y, line };
    return [...shapes.map((shape) => ({ ...shape, line: halo, opacity: 0.5 })), { ...across, line: halo, opacity: 0.5 }, ...shapes, across];
  }

  // The known limit of the learning rate, on a strip over rates.
  limitMark(place) {
    const limit = this.grid.limitAt(place);
    if (!Number.isFinite(limit) || this.grid.alongAxis(this.across, place).name !== this.grid.limit.along) return [];
    const label = { text: "known limit", textposition: "middle", textangle: -90, xanchor: "right", font: { size: 11, color: colourOf("accent") } };
    return [{ type: "line", xref: "x", yref: "paper", x0: limit, x1: limit, y0: 0, y1: 1, line: { color: colourOf("accent"), width: 1.6, dash: "dash" }, label }];
  }

  // The same on a map, as a line through it.
  limitLine(place) {
    const { axes, limit } = this.grid, along = [this.across, this.up].find((i) => axes[i].name === limit?.along);
    if (along === undefined) return [];
    const other = along === this.up ? this.across : this.up, values = this.grid.alongAxis(other, place).values;
    const limits = Array.from(values, (_, at) => this.grid.limitAt(place.with(other, at)));
    if (!limits.some(Number.isFinite)) return [];
    const line = { type: "scatter", mode: "lines", hoverinfo: "skip", ...(along === this.across ? { x: limits, y: values } : { x: values, y: limits }) };
    return [{ ...line, line: { color: "#000000", width: 3 } }, { ...line, line: { color: "#ffffff", width: 1.5, dash: "dash" } }];
  }

  // Which cut through the other axes is drawn.
  cutKey(place) {
    return place.filter((_, i) => i !== this.up && i !== this.across && (this.up !== null || this.grid.axes[i].kind !== "replicate")).join();
  }

  draw(place) {
    this.place = place;
    if (!this.root) return;
    if (this.drawn !== this.cutKey(place)) return this.plot(place, Plotly.react);
    for (const div of this.plots) Plotly.relayout(div, { shapes: this.cross(place) });
  }

  step(event) {
    const along = { ArrowLeft: [this.across, -1], ArrowRight: [this.across, 1], ArrowDown: [this.up, -1], ArrowUp: [this.up, 1] }[event.key];
    if (!along || along[0] === null) return;
    event.preventDefault();
    const [axis, by] = along, most = this.grid.axes[axis].values.length - 1;
    this.choose(this.place.with(axis, Math.min(most, Math.max(0, this.place[axis] + by))));
  }
}

// Whether an outcome is that of a lane: an optimizer may have fewer trials than another.
function isThere(grid, code) {
  return code < grid.outcomes.length;
}

// [what, value] of one lane, in words.
function figuresOf(grid, place) {
  const lane = grid.lane(place), { outcomes, figures } = grid;
  const shown = Object.entries(figures).filter(([name]) => name !== "outcome" && name !== "height");
  if (!isThere(grid, figures.outcome[lane])) return [["outcome", "no such trial"]];
  if (outcomes[figures.outcome[lane]] === "pending") return [["outcome", "not run"]];
  const numbers = shown.map(([name, values]) => {
    const value = values[lane];
    if (name === "minimum" && value >= 0) return ["minimum reached", `(${grid.known_minima[value].map((v) => figure(v)).join(", ")})`];
    return [name.replaceAll("_", " "), value === -1 && values instanceof Int32Array ? "–" : figure(value)];
  });
  return [["outcome", outcomes[figures.outcome[lane]]], ...numbers.filter(([, value]) => value !== "–")];
}

// --- axes and colours ---

function rises(values) {
  return values.every((value, i) => Number.isFinite(value) && (i === 0 || value > values[i - 1]));
}

// Whether counts, where there are any, span more than a linear scale can show.
function wide(counts) {
  const there = counts.filter((count) => count >= 0);
  const low = there.reduce((least, count) => Math.min(least, count), Infinity), high = there.reduce((most, count) => Math.max(most, count), 0);
  return low > 0 && high > 100 * low;
}

function axisType({ values, log }) {
  return log && rises(values) ? "log" : "linear";
}

// Where the cells around sorted values end: halfway, by ratio on a logarithmic scale.
function edges({ values, log }) {
  if (!rises(values)) return values.map((_, i) => i);
  const [to, from] = log ? [Math.log, Math.exp] : [Number, Number];
  const at = values.map(to), middles = at.slice(1).map((value, i) => (value + at[i]) / 2);
  return [2 * at[0] - middles[0], ...middles, 2 * at.at(-1) - middles.at(-1)].map(from);
}

// From where to where the cells reach, as plotly has ranges.
function extent(along) {
  const ends = edges(along), range = rises(along.values) ? [ends[0], ends.at(-1)] : [ends[0] - 0.5, ends.at(-1) + 0.5];
  return axisType(along) === "log" ? range.map(Math.log10) : range;
}

function logTick(values) {
  return values.at(-1) > 1000 * values[0] ? 1 : "D2";
}

// One colour for each of some codes, drawn by their order; the colour bar is their key, a word at each.
function patches(codes, colours, names) {
  const count = codes.length;
  const colorscale = codes.flatMap((code, i) => [[i / count, colours[code]], [(i + 1) / count, colours[code]]]);
  const key = { thickness: 12, len: Math.min(1, 0.18 * count + 0.1), outlinewidth: 0, tickvals: [...codes.keys()], ticktext: codes.map((code) => plain(names[code])), ticks: "", tickfont: { color: colourOf("ink") } };
  return { colorscale, zmin: -0.5, zmax: count - 0.5, colorbar: key };
}

function viridis(share) {
  const known = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const [i, part] = between([0, 0.25, 0.5, 0.75, 1], share);
  return `rgb(${known[i].map((value, k) => Math.round(value + part * (known[i + 1][k] - value))).join()})`;
}
