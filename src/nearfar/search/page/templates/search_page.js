// Runs once when the page has loaded: names for screen readers, the chosen picture, results in view, an address to share.
() => {
  const buttons = () => [...document.querySelectorAll("#hits .thumbnail-lg")];
  const set = (part, name, value) => part && part.getAttribute(name) !== value && part.setAttribute(name, value);
  let chosen = -1;

  const nameParts = () => {
    buttons().forEach((button, place) => {
      const words = button.querySelector(".caption-label")?.textContent.trim() ?? "";
      const [score, ...caption] = words.split("\n")[0].split(/\s+/);
      set(button.querySelector("img"), "alt", caption.join(" ") || `hit ${place + 1}, without a caption`);
      set(button, "aria-label", `hit ${place + 1}, score ${score}: ${caption.join(" ")}`);
      set(button, "aria-pressed", String(place === chosen));
    });
    document.querySelectorAll("button svg, .block svg").forEach((drawing) => set(drawing, "aria-hidden", "true"));
    const like = document.querySelector("#like");
    if (like && like.hidden !== chosen < 0) like.hidden = chosen < 0;
    const file = document.querySelector("#picture input[type=file]");
    set(file, "aria-label", `a ${file?.accept.includes("audio") ? "sound" : "picture"} to start from`);
    set(document.querySelector("#notice"), "aria-live", "polite");
    set(document.querySelector("#hits"), "aria-label", "hits, best first");
    set(document.querySelector("#hits"), "role", "region");
  };

  const show = (part) => {
    const box = document.querySelector(part)?.getBoundingClientRect();
    if (box && (box.top < 0 || box.top > window.innerHeight / 2)) window.scrollBy({ top: box.top - 12 });
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#hits .thumbnail-lg");
    if (!button) return;
    chosen = buttons().indexOf(button);
    nameParts();
  });
  // Whoever wants less motion sees the first frame of a video that moves as a picture.
  const motionless = matchMedia("(prefers-reduced-motion: reduce)");
  const still = (image) => {
    if (!motionless.matches || image.src.startsWith("data:")) return;
    const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.src = canvas.toDataURL();
  };
  document.addEventListener("load", (event) => event.target.matches?.("#hits img, #larger img") && still(event.target), true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector("#larger button")?.click();
  });
  window.nearfar = {
    searched: (text, plus, minus, weight, top, where) => {
      chosen = -1;
      nameParts();
      show("#summary");
      document.title = [text, plus && `+ ${plus}`, minus && `\u2212 ${minus}`, "nearfar search"].filter(Boolean).join(" ");
      const parts = { q: text, plus, minus, where };
      const query = new URLSearchParams(Object.entries(parts).filter(([, value]) => value));
      if (plus || minus) query.set("weight", weight);
      if ([...query].length) query.set("top", top);
      history.replaceState(null, "", [...query].length ? `?${query}` : location.pathname);
    },
    chose: () => {
      show("#larger");
      if (motionless.matches) document.querySelector("#larger video")?.pause();
    },
  };
  new MutationObserver(nameParts).observe(document.body, { childList: true, subtree: true, characterData: true });
  nameParts();
}
