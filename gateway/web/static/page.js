// Refreshes the page without a jump: what changed is replaced, everything else stays.
"use strict";

const INTERVAL = 5000;

const replaceChanged = (fresh) => {
  const main = document.querySelector("main");
  const wanted = [...fresh.querySelectorAll("main > section")];
  const names = wanted.map((section) => section.id);
  const own = [...main.querySelectorAll(":scope > section")];
  if (own.map((section) => section.id).join() !== names.join()) {
    main.replaceWith(fresh.querySelector("main"));
  } else {
    own.forEach((section, place) => {
      if (section.innerHTML !== wanted[place].innerHTML) section.replaceWith(wanted[place]);
    });
  }
  for (const name of ["summary", "read"]) {
    document.getElementById(name).replaceWith(fresh.getElementById(name));
  }
  document.title = fresh.title;
};

let last = new Date();

const refresh = async () => {
  if (document.visibilityState !== "visible") return;
  const lost = document.getElementById("lost");
  try {
    const answer = await fetch("/", { signal: AbortSignal.timeout(INTERVAL * 2) });
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    const across = window.scrollX;
    const down = window.scrollY;
    replaceChanged(new DOMParser().parseFromString(text, "text/html"));
    window.scrollTo(across, down);
    last = new Date();
    lost.textContent = "";
  } catch {
    const text = `The gateway does not answer since ${last.toLocaleTimeString()}; what you see is older.`;
    if (lost.textContent !== text) lost.textContent = text;
  }
};

setInterval(refresh, INTERVAL);
document.addEventListener("visibilitychange", refresh);
