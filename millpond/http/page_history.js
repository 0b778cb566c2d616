// The last hour: three pictures over the same time, with marks, and the same as a table.
const HOUR = 3600, WINDOWS = [600, 1200, 1800, HOUR], STEPS = [60, 120, 300, 600, 900, 1800];
const GOOD = ["succeeded", "discarded"];
const past = {buckets: new Map(), marks: [], cursor: null, now: 0};
const clock = (at, seconds) => new Date(1000 * at).toLocaleTimeString("en-GB",
  {hour: "2-digit", minute: "2-digit", ...(seconds ? {second: "2-digit"} : {})});
const duration = seconds => seconds == null ? "" : seconds < 0.00995 ? (1000 * seconds).toFixed(1) + " ms"
  : seconds < 0.9995 ? Math.round(1000 * seconds) + " ms" : seconds < 99.5 ? +seconds.toPrecision(2) + " s" : span(seconds);
const rate = number => (number < 9.95 ? +number.toFixed(1) : Math.round(number)).toLocaleString("en") + "/s";
const good = one => sum(one.outcomes || {}, GOOD) / one.seconds;
const bad = one => (one.failed || 0) / one.seconds;
const rest = one => ended(one.outcomes || {}) / one.seconds - good(one) - bad(one);
const CHARTS = [
  {id: "throughput", title: "Messages a second", text: rate, series: [
    {name: "succeeded", kind: "accent", value: good}, {name: "failed", kind: "failed", value: bad},
    {name: "put off or given back", kind: "rest", value: rest, quiet: true}]},
  {id: "waits", title: "Wait from send to handler", text: duration, series: [
    {name: "p95", kind: "upper", value: one => one.wait_p95}, {name: "p50", kind: "accent", value: one => one.wait_p50}]},
  {id: "runs", title: "Run of handlers", text: duration, series: [
    {name: "p95", kind: "upper", value: one => one.run_p95}, {name: "p50", kind: "accent", value: one => one.run_p50}]}];
const drawing = (name, attributes, text) => {
  const made = document.createElementNS($("throughput").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text != null) made.textContent = text;
  return made;
};
// The end of a scale: the least round number that is not below the value; of seconds above a minute, minutes or hours.
const ROUND = [1, 2, 3, 4, 5, 6, 8, 10], ROUND_SECONDS = [60, 120, 180, 240, 300, 600, 1200, 1800, 3600, 7200, 14400, 36000];
function roundUp(value, text) {
  const wanted = Math.max(value, text === rate ? 1 : 0.001), size = 10 ** Math.floor(Math.log10(wanted));
  if (text === duration && wanted > 60) return ROUND_SECONDS.find(one => one >= wanted) || wanted;
  return ROUND.map(one => one * size).find(one => one >= wanted * 0.999);
}
function frame() {
  // In the order of their times, and none that is still to come: the clock of the machine may have been set back.
  const end = past.now, buckets = [...past.buckets.values()].filter(one => one.at < end + 10).sort((one, other) => one.at - other.at);
  const oldest = Math.min(...buckets.map(one => one.at), ...past.marks.map(one => one.at), end);
  const seconds = WINDOWS.find(one => one >= end - oldest) || HOUR;
  const begin = end - seconds;
  return {begin, end, seconds, buckets: buckets.filter(one => one.at + one.seconds > begin),
    marks: past.marks.filter(one => one.at >= begin)};
}
const LABELS = {breaker: "breaker opens", closed: "breaker closes", resume: "receives again"};
const middle = one => one.at + one.seconds / 2;
function chart(one, view, isFirst) {
  const svg = $(one.id), width = Math.max(280, svg.clientWidth), height = svg.clientHeight || 150;
  const left = 52, right = 10, top = isFirst ? 20 : 8, bottom = 20;
  const series = one.series.filter(line => !line.quiet || view.buckets.some(bucket => line.value(bucket) > 0.001));
  const most = roundUp(Math.max(0, ...view.buckets.flatMap(bucket => series.map(line => line.value(bucket) || 0))), one.text);
  const x = at => left + (width - left - right) * (at - view.begin) / view.seconds;
  const y = value => height - bottom - (height - top - bottom) * value / most;
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(drawing("line", {class: "grid", x1: left, x2: width - right, y1: y(share * most), y2: y(share * most)}),
      drawing("text", {x: left - 6, y: y(share * most) + 4, "text-anchor": "end"}, share ? one.text(share * most) : "0"));
  }
  const step = STEPS.find(seconds => view.seconds / seconds <= width / 90) || HOUR;
  for (let at = Math.ceil(view.begin / step) * step; at <= view.end; at += step)
    if (x(at) > left + 12 && x(at) < width - 20)
      parts.push(drawing("line", {class: "grid", x1: x(at), x2: x(at), y1: y(0), y2: y(0) + 4}),
        drawing("text", {x: x(at), y: height - 4, "text-anchor": "middle"}, clock(at)));
  for (const line of series) parts.push(...path(line, view.buckets, x, y));
  let free = 0;
  for (const mark of view.marks) {
    const group = drawing("g", {class: `mark ${mark.kind}`}), label = LABELS[mark.kind] || mark.kind;
    group.append(drawing("title", {}, `${clock(mark.at, true)} ${mark.text}`),
      drawing("line", {x1: x(mark.at), x2: x(mark.at), y1: top - 6, y2: y(0)}));
    const wide = 6.3 * label.length, begin = Math.min(x(mark.at) - 3, width - wide - 2);
    if (isFirst && begin >= free) {
      group.append(drawing("text", {x: begin, y: 11}, label));
      free = begin + wide + 8;
    }
    parts.push(group);
  }
  const shown = pointed(view), text = series.map(line => `${line.name} ${said(line, shown, one.text)}`).join(", ");
  if (past.cursor && shown) parts.push(drawing("line", {class: "cursor", x1: x(middle(shown)), x2: x(middle(shown)), y1: top, y2: y(0)}));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.ariaLabel = `${one.title}, ${clock(view.begin)} to ${clock(view.end)}; ${shown ? clock(shown.at, true) : "none"}: ${text}; ` +
    `the scale ends at ${one.text(most)}. Arrow keys go through the time.`;
  svg.replaceChildren(...parts);
  legend(one, series, shown);
}
const said = (line, bucket, text) => {
  const value = bucket && line.value(bucket);
  return value == null ? "none" : text(Math.max(0, value));
};
function path(line, buckets, x, y) {
  let outline = "", area = "", run = [];
  const finish = () => {
    if (!run.length) return;
    outline += `M${run.join("L")}h.01`;
    area += `M${run[0].split(" ")[0]} ${y(0)}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${y(0)}Z`;
    run = [];
  };
  for (const bucket of buckets) {
    const value = line.value(bucket);
    if (value == null) finish();
    else run.push(`${x(Math.max(middle(bucket), bucket.at)).toFixed(1)} ${y(Math.max(0, value)).toFixed(1)}`);
  }
  finish();
  return [drawing("path", {class: `area ${line.kind}`, d: area}), drawing("path", {class: `series ${line.kind}`, d: outline})];
}
// The bucket under the pointer or the cursor; else the last one that is full.
function pointed(view) {
  const {buckets} = view;
  if (past.cursor == null) return buckets.findLast(one => one.seconds >= 9) || buckets.at(-1);
  return buckets.reduce((best, one) =>
    best && Math.abs(middle(best) - past.cursor) <= Math.abs(middle(one) - past.cursor) ? best : one, null);
}
function legend(one, series, shown) {
  const place = $(one.id).parentElement.querySelector("figcaption");
  const parts = [element("strong", one.title)];
  for (const line of series) parts.push(element("span", `${line.name} ${said(line, shown, one.text)}`, `key ${line.kind}`));
  if (shown) parts.push(element("span", past.cursor ? clock(shown.at, true) : "now", "soft"));
  place.replaceChildren(...parts);
}
function drawHour() {
  const view = frame();
  CHARTS.forEach((one, at) => chart(one, view, !at));
  const marks = view.marks.slice(-6).reverse().map(mark => {
    const line = element("li", "");
    line.append(element("time", clock(mark.at, true)), " ", element("span", mark.text, mark.kind === "breaker" || mark.kind === "blocked" ? "bad" : ""));
    return line;
  });
  $("marks").replaceChildren(...marks);
  if ($("hour-table").parentElement.open) hourTable(view);
}
// Percentiles of several buckets cannot be added: the worst of a minute is what matters.
function hourTable(view) {
  const minutes = new Map();
  for (const bucket of view.buckets) {
    const at = Math.floor(bucket.at / 60) * 60;
    if (!minutes.has(at)) minutes.set(at, {at, good: 0, failed: 0, waits: [], runs: []});
    const minute = minutes.get(at);
    minute.good += sum(bucket.outcomes || {}, GOOD);
    minute.failed += bucket.failed || 0;
    if (bucket.wait_p95 != null) minute.waits.push(bucket.wait_p95);
    if (bucket.run_p95 != null) minute.runs.push(bucket.run_p95);
  }
  const worst = times => times.length ? duration(Math.max(...times)) : "";
  table("hour-table", [
    {name: "minute", value: one => clock(one.at)}, {name: "succeeded", value: one => count(one.good), kind: "number"},
    {name: "failed", value: one => count(one.failed), kind: "number", bad: one => one.failed},
    {name: "worst wait p95", value: one => worst(one.waits), kind: "number"},
    {name: "worst run p95", value: one => worst(one.runs), kind: "number"}], [...minutes.values()].reverse(), one => one.at);
}
function learnHour(part) {
  // After a deploy another process answers: what this page has of the one before stays, and shows what changed.
  for (const bucket of part.buckets) past.buckets.set(bucket.at, bucket);
  const known = new Set(past.marks.map(mark => mark.at + mark.text));
  past.marks.push(...part.marks.filter(mark => !known.has(mark.at + mark.text)));
  for (const [at, bucket] of past.buckets) if (at + bucket.seconds < past.now - HOUR) past.buckets.delete(at);
  drawHour();
}
function point(at) {
  past.cursor = at;
  drawHour();
}
for (const one of CHARTS) {
  const svg = $(one.id);
  const timeAt = event => {
    const box = svg.getBoundingClientRect(), view = frame();
    return view.begin + view.seconds * (event.clientX - box.left - 52) / (box.width - 62);
  };
  svg.addEventListener("pointermove", event => point(timeAt(event)));
  svg.addEventListener("pointerleave", () => point(null));
  svg.addEventListener("blur", () => point(null));
  svg.addEventListener("keydown", event => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key], view = frame();
    if (event.key === "Escape") point(null);
    if (!move || !view.buckets.length) return;
    event.preventDefault();
    const at = view.buckets.indexOf(pointed(view)) + (past.cursor ? move : 0);
    point(middle(view.buckets[Math.min(view.buckets.length - 1, Math.max(0, at))]));
  });
}
new ResizeObserver(() => past.now && drawHour()).observe($("throughput"));
$("hour-table").parentElement.addEventListener("toggle", () => drawHour());
shows.push(snapshot => {
  const isLate = snapshot.taken - past.now > 5;
  past.now = snapshot.taken;
  if (isLate) drawHour();
});
learns.push(learnHour);
put($("zone"), new Intl.DateTimeFormat().resolvedOptions().timeZone);
