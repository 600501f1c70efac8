"use strict";
// The data of the page: unpacked, its arrays typed, its lanes found by their place on the grid.

const TYPES = { i1: Int8Array, i4: Int32Array, f4: Float32Array, f8: Float64Array };

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

async function unpacked(id) {
  const element = document.getElementById(id);
  const packed = new Blob([bytesOf(element.textContent)]);
  element.remove();
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// Arrays come as little-endian bytes, which is what every browser's typed arrays read.
function revived(key, value) {
  return value && value.dtype ? new TYPES[value.dtype](bytesOf(value.data).buffer) : value;
}

// Six digits, as the tables have them.
function figure(value) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const rounded = Number(value.toPrecision(6)), size = Math.abs(rounded);
  return size !== 0 && (size < 1e-4 || size >= 1e6) ? rounded.toExponential() : String(rounded);
}

function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Whatever labels came from a config, plotly reads some letters of as markup.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

class Grid {
  constructor(run) {
    Object.assign(this, run);
    this.strides = this.axes.map((_, i) => this.axes.slice(i + 1).reduce((n, axis) => n * axis.values.length, 1));
    this.scales = this.axes.map((_, i) => i).filter((i) => this.axes[i].kind === "scale" && this.axes[i].values.length > 1);
    this.names = this.axes.findIndex((axis) => axis.kind === "names" && axis.values.length > 1);
  }

  lane(place) {
    return place.reduce((sum, at, i) => sum + at * this.strides[i], 0);
  }

  placeOf(lane) {
    return this.axes.map((axis, i) => Math.floor(lane / this.strides[i]) % axis.values.length);
  }

  // A label that lies along some of the axes, at one place.
  label(name, place) {
    return this.lying(this.labels[name], place);
  }

  // The largest stable rate in theory, for the lanes at a place; NaN where there is none.
  limitAt(place) {
    return this.limit ? this.lying(this.limit, place) : NaN;
  }

  lying({ dims, values }, place) {
    let at = 0;
    for (const dim of dims) {
      const i = this.axes.findIndex((axis) => axis.name === dim);
      at = at * this.axes[i].values.length + place[i];
    }
    return values[at];
  }

  // [name, text] of all that tells this place from another.
  setting(place) {
    const said = this.axes.map((axis, i) => [axis.name, axis.values[place[i]]]);
    for (const name of Object.keys(this.labels)) said.push([name, this.label(name, place)]);
    return said
      .filter(([, value]) => value !== "" && !Number.isNaN(value))
      .map(([name, value]) => [name, typeof value === "number" ? figure(value) : value]);
  }

  // What a slider says of its axis: the value, and what else changes with it.
  valueOn(i, place) {
    const { name, values } = this.axes[i], value = values[place[i]];
    const beside = Object.keys(this.labels).filter((label) => this.labels[label].dims.includes(name));
    const said = beside.map((label) => [label, this.label(label, place)]).filter(([, v]) => v !== "" && !Number.isNaN(v));
    const own = typeof value === "number" ? figure(value) : value;
    if (!said.length) return own;
    return `${own}: ${said.map(([label, v]) => `${label} ${typeof v === "number" ? figure(v) : v}`).join(", ")}`;
  }

  // The values along an axis as a picture shows them: of trials, the one hyperparameter that they vary.
  alongAxis(i, place) {
    const axis = this.axes[i];
    if (axis.name === "trial") {
      const varied = Object.keys(this.labels).filter((label) => this.labels[label].dims.includes("trial"));
      const columns = varied.map((label) => [label, Array.from(axis.values, (_, at) => this.label(label, place.with(i, at)))]);
      const numeric = columns.filter(([, column]) => column.some((v) => typeof v === "number" && Number.isFinite(v)));
      if (numeric.length === 1) {
        const [name, values] = numeric[0], there = values.filter(Number.isFinite);
        return { name, values, log: Math.min(...there) > 0 && Math.max(...there) >= 20 * Math.min(...there) };
      }
    }
    return { name: axis.name, values: Array.from(axis.values), log: axis.log };
  }

  // The stored path that is nearest on the grid, and whether it is this very lane's.
  nearest(place) {
    let found = -1, least = Infinity;
    this.paths.lanes.forEach((lane, path) => {
      let distance = 0;
      this.axes.forEach((axis, i) => {
        const apart = Math.abs(lane[i] - axis.index[place[i]]);
        if (axis.kind === "scale") distance += (apart / axis.size) ** 2;
        else if (apart) distance += axis.kind === "names" ? 1e6 : 1e3;
      });
      if (distance < least) [found, least] = [path, distance];
    });
    return { path: found, own: least === 0 };
  }

  // A cost on a logarithmic scale: above the minimum, where that is known, and no lower than it resolves.
  above(cost) {
    const above = Math.max(cost - (this.minimum ?? 0), this.height.least);
    return Number.isFinite(above) && above > 0 ? above : null;
  }

  // The last record at which a path has a cost.
  lastRecord(path) {
    const count = this.paths.epochs.length;
    let last = count - 1;
    while (last > 0 && Number.isNaN(this.paths.cost[path * count + last])) last -= 1;
    return last;
  }
}

// --- how plots look ---

function plotLayout(extra) {
  const [ink, quiet, line] = ["ink", "quiet", "line"].map(colourOf);
  const axis = { color: quiet, gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, exponentformat: "power" };
  const { xaxis = {}, yaxis = {}, ...others } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    margin: { l: 56, r: 16, t: 34, b: 58 },
    showlegend: false,
    hovermode: "closest",
    dragmode: false,
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...others,
  };
}

// Solid pictures with as many dots as the screen has, where plotly would draw four times as many on any.
const PLOT_CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false, showTips: false, plotGlPixelRatio: Math.max(1, Math.min(2, window.devicePixelRatio)) };

function heading(text) {
  return { text: plain(text), font: { size: 13 }, x: 0.01, xanchor: "left", y: 0.98, yanchor: "top" };
}
