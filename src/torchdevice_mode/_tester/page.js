for (const block of document.querySelectorAll("pre.command")) {
  if (!navigator.clipboard) break;
  const words = block.textContent;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(words);
    button.textContent = "Copied";
  });
  block.prepend(button);
}
