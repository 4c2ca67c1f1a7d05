() => {
  // The visitor's choice of light or dark stays in this browser; without one, the system's counts.
  const dark = localStorage.getItem("glm-theme");
  if (dark) document.body.classList.toggle("dark", dark === "dark");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    const target = document.querySelector("#stop") ?? document.querySelector("#cancel-edit");
    if (target) target.click();
  });
}
