// The picture: a click or the arrow keys choose a point, and a file dropped on it is handed to the upload field.
const clamp = (part) => Math.min(Math.max(part, 0), 1);
element.tabIndex = 0;

element.addEventListener("click", (event) => {
  const frame = event.target.closest(".frame");
  if (!frame) return;
  const box = frame.getBoundingClientRect();
  trigger("click", {
    x: clamp((event.clientX - box.left) / box.width),
    y: clamp((event.clientY - box.top) / box.height),
  });
});

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
element.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  trigger("step", { x: 0.02 * step[0], y: 0.02 * step[1] });
});

for (const name of ["dragenter", "dragover"]) {
  element.addEventListener(name, (event) => {
    event.preventDefault();
    element.classList.add("dropping");
  });
}
element.addEventListener("dragleave", () => element.classList.remove("dropping"));
element.addEventListener("drop", (event) => {
  event.preventDefault();
  element.classList.remove("dropping");
  const field = document.querySelector("#upload input[type=file]");
  if (!field || !event.dataTransfer.files.length) return;
  field.files = event.dataTransfer.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
});

// A file over the limit is not even sent; Gradio would say so too, but in other words. It listens on the field and
// on the drop zone, so that the document hears of a file first.
const refuse = (event, files) => {
  if (!event.target.closest("#upload") || ![...(files ?? [])].some((file) => file.size > props.largest_file)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  trigger("refuse");
};
document.addEventListener("change", (event) => refuse(event, event.target.files), true);
document.addEventListener("drop", (event) => refuse(event, event.dataTransfer?.files), true);
