// The loop file gives, for one image, the read-out after each time-step and how often each layer
// fired until then. This page runs it once an image and shows the time-steps one by one.

const CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
                 "Bag", "Ankle boot"];
const SIZE = 28;
const query = new URLSearchParams(location.search);
const find = (id) => document.getElementById(id);
const drawing = find("drawing").getContext("2d");
let session, images, shown = 0;

function row(place, name) {
  const line = document.createElement("div");
  line.className = "row";
  line.innerHTML = "<span></span><span class=bar><i></i></span><span></span>";
  line.firstChild.textContent = name;
  find(place).append(line);
  return line;
}

function setRow(line, share, text) {
  line.querySelector("i").style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  line.lastChild.textContent = text;
}

function paint(context, pixels) {
  const data = context.createImageData(SIZE, SIZE);
  pixels.forEach((value, i) => data.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
  context.putImageData(data, 0, 0);
}

function drawnPixels() {
  const { data } = drawing.getImageData(0, 0, SIZE, SIZE);
  return Array.from({ length: SIZE * SIZE }, (_, i) => data[4 * i] / 255);
}

async function classify(pixels) {
  const input = new ort.Tensor("float32", Float32Array.from(pixels), [1, 1, SIZE, SIZE]);
  const found = await session.run({ input });
  const steps = found["steps/output"].data;
  const rates = Object.keys(images.layers).map((name) => found[`steps/firing_rate/${name}`].data);
  return { output: Array.from(found.output.data), steps, rates, T: rates[0].length };
}

const best = (values) => values.indexOf(Math.max(...values));

function softmax(values) {
  const e = values.map((value) => Math.exp(value - Math.max(...values)));
  return e.map((value) => value / e.reduce((a, b) => a + b));
}

function showTime(result, t, rows) {
  document.querySelectorAll(".time").forEach((e) => (e.textContent = `at time-step ${t}`));
  const scores = softmax(Array.from(result.steps.slice((t - 1) * 10, t * 10)));
  rows.classes.forEach((line, i) => {
    setRow(line, scores[i], `${(100 * scores[i]).toFixed(1)} %`);
    line.classList.toggle("best", i === best(scores));
  });
  const counts = Object.values(images.layers).map((n, i) => n * t * result.rates[i][t - 1]);
  const finals = Object.values(images.layers).map((n, i) => n * result.T * result.rates[i].at(-1));
  rows.layers.forEach((line, i) => {
    setRow(line, counts[i] / Math.max(...finals), Math.round(counts[i]).toLocaleString("en"));
  });
}

async function show(pixels, rows) {
  const turn = ++shown;
  find("verdict").textContent = "Running ...";
  const result = await classify(pixels);
  for (let t = 1; t <= result.T && turn === shown; t++) {
    showTime(result, t, rows);
    find("verdict").textContent = CLASSES[best(result.output)];
    await new Promise((done) => setTimeout(done, 60));
  }
}

function letDraw(rows) {
  const canvas = find("drawing");
  const draw = (event) => {
    if (!event.buttons) return;
    const box = canvas.getBoundingClientRect();
    drawing.fillStyle = "#ddd";
    drawing.fillRect((event.clientX - box.left) / box.width * SIZE - 1,
                     (event.clientY - box.top) / box.height * SIZE - 1, 2.5, 2.5);
  };
  canvas.addEventListener("pointerdown", draw);
  canvas.addEventListener("pointermove", draw);
  canvas.addEventListener("pointerup", () => show(drawnPixels(), rows));
  find("clear").onclick = () => {
    shown++;
    drawing.fillStyle = "#000";
    drawing.fillRect(0, 0, SIZE, SIZE);
  };
}

async function main() {
  ort.env.wasm.numThreads = 1;
  images = await (await fetch("images.json")).json();
  session = await ort.InferenceSession.create("net.onnx", { executionProviders: ["wasm"] });
  if (query.has("test")) {  // For the test: the read-outs of all images, to the server.
    const outputs = [];
    for (const pixels of images.pixels) outputs.push((await classify(pixels)).output);
    await fetch("result", { method: "POST", body: JSON.stringify(outputs) });
    return;
  }
  const rows = {
    classes: CLASSES.map((name) => row("classes", name)),
    layers: Object.keys(images.layers).map((_, i) => row("layers", `layer ${i + 1}`)),
  };
  images.pixels.forEach((pixels) => {
    const choice = document.createElement("canvas");
    choice.width = choice.height = SIZE;
    paint(choice.getContext("2d"), pixels);
    choice.onclick = () => { paint(drawing, pixels); show(pixels, rows); };
    find("choices").append(choice);
  });
  letDraw(rows);
  const first = images.pixels[Number(query.get("image") ?? 0)];
  paint(drawing, first);
  await show(first, rows);
}

main().catch((error) => {
  find("verdict").textContent = `Failed: ${error.message}`;
  if (query.has("test")) fetch("result", { method: "POST", body: JSON.stringify(String(error)) });
});
