// Charts over the last minutes, by uPlot. A chart is made once and then only given new data.
/* global uPlot */

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A chart of these series ([label, colour]) in this element; `unit` is behind its numbers. */
export function chart(title, series, unit) {
  const element = document.createElement("div");
  element.className = "chart";
  let plot = null;
  const make = () => {
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
    const options = {
      title,
      width: Math.max(element.clientWidth, 200),
      height: 200,
      scales: { y: { range: (_, low, high) => [0, Math.max(high, unit === "%" ? 100 : 1)] } },
      axes: [axis, { ...axis, size: 56, values: (_, values) => values.map((value) => `${value.toLocaleString("en")} ${unit}`.trim()) }],
      series: [{}, ...series.map(([label, name]) => ({
        label, stroke: colour(name), width: 2, points: { show: false },
        value: (_, value) => (value == null ? "–" : `${value.toLocaleString("en", { maximumFractionDigits: 1 })} ${unit}`.trim()),
      }))],
    };
    plot = new uPlot(options, [[], ...series.map(() => [])], element);
  };
  // Its colours are those of when it was made.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (plot) plot.destroy();
    plot = null;
  });
  const watcher = new ResizeObserver(() => {
    if (plot) plot.setSize({ width: Math.max(element.clientWidth, 200), height: 200 });
  });
  watcher.observe(element);
  return {
    element,
    /** `[[seconds…], [values of the first series…], …]` */
    show(data) {
      if (!element.isConnected) return;
      if (!plot) make();
      plot.setData(data);
    },
  };
}
