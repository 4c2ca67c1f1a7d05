// Runs once, inside gradio's HTML component: `element` is its root, `trigger` raises an event on the
// server, `watch` calls back after a change of the value was drawn.
const events = ["edit", "retry", "delete", "example_select"];
const log = () => element.querySelector(".glm-log");
let atEnd = true;

async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  // Pages from another machine without https have no clipboard of their own.
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

element.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  const { action, index, source } = button.dataset;
  if (events.includes(action)) {
    if (action === "example_select" || action === "retry") atEnd = true;
    trigger(action, { index: Number(index) });
    return;
  }
  const code = button.closest(".glm-code")?.querySelector("code");
  await copy(action === "copy-code" ? code.textContent : source);
  button.classList.add("glm-done");
  setTimeout(() => button.classList.remove("glm-done"), 1500);
});

element.addEventListener(
  "scroll",
  () => {
    const { scrollHeight, scrollTop, clientHeight } = log();
    atEnd = scrollHeight - scrollTop - clientHeight < 60;
  },
  true,
);

watch("value", () => {
  if (atEnd) log().scrollTop = log().scrollHeight;
});
