/* The parts of the page that run in the browser: figures, the strip of pictures, progress, and the page's address.
   `window.sfkd` is what the components of components.py call; PLOTLY and TEMPLATES are filled in by it. */
(() => {
  const TEMPLATES = /*TEMPLATES*/ {};
  const plotly = new Promise((ready) => {
    const script = document.createElement("script");
    script.src = "PLOTLY";
    script.onload = () => {
      document.querySelector("base")?.remove(); // plotly would tie its clip paths to the address of this moment
      ready(window.Plotly);
    };
    document.head.append(script);
  });
  const dark = () => document.body.classList.contains("dark");
  const figures = new Set();
  const CONFIG = {
    displaylogo: false,
    plotlyServerURL: "", // plotly offers to send the figure to its makers
    modeBarButtonsToRemove: ["sendChartToCloud", "toImage", "select2d", "lasso2d"],
  };

  function save(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = Object.assign(document.createElement("textarea"), { value: text }); // a page that is not on this machine
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  /* A figure: `props.value` is JSON from payload.py. It is drawn in place, so zoom stays and nothing is left behind. */
  function figure(element, props, watch, server, index) {
    const root = element.querySelector("figure");
    const part = (name) => root.querySelector(`.${name}`);
    const plot = part("plot");
    let shown = null, drawing = false, again = false, drawn = null;

    const layout = (ground) => {
      const template = structuredClone(TEMPLATES[dark() ? "dark" : "light"]);
      if (!ground) Object.assign(template.layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" });
      const own = structuredClone(shown.layout);
      return Object.assign(own, { template, uirevision: shown.revision }, ground ? shown.full : {});
    };

    function tell() {
      root.hidden = !props.value;
      if (!props.value) return false;
      shown = JSON.parse(props.value);
      part("title").textContent = shown.title;
      part("note").textContent = new DOMParser().parseFromString(shown.note, "text/html").body.textContent;
      part("code").textContent = shown.python;
      root.setAttribute("aria-label", `${shown.label}: ${shown.title}`);
      part("tools").setAttribute("aria-label", `Save or repeat: ${shown.title}`);
      plot.style.minHeight = `${shown.layout.height}px`;
      return true;
    }

    async function draw() {
      if (drawing) return void (again = true);
      drawing = true;
      root.setAttribute("aria-busy", "true");
      try {
        const Plotly = await plotly;
        do {
          again = false;
          if (!plot.offsetWidth) break; // its tab is closed; the observer calls again
          const key = `${dark()}|${props.value}`;
          if (key === drawn) break;
          drawn = key;
          await Plotly.react(plot, shown.data, layout(false), CONFIG);
        } while (again);
        root.dataset.drawn = Number(root.dataset.drawn || 0) + 1;
        root.dispatchEvent(new CustomEvent("sfkd:drawn", { bubbles: true }));
      } finally {
        drawing = false;
        root.setAttribute("aria-busy", "false");
      }
    }

    const renew = () => { if (tell()) draw(); };
    const full = () => ({ data: JSON.parse(props.value).data, layout: { ...layout(true), width: plot.offsetWidth } });

    async function image(format) {
      const Plotly = await plotly;
      const { data, layout: whole } = full();
      const size = { width: whole.width, height: whole.height, scale: format === "png" ? 2 : 1 };
      await Plotly.downloadImage({ data, layout: whole }, { format, filename: shown.name, ...size });
    }

    async function standalone() {
      const library = await (await fetch("PLOTLY")).text();
      const drawing = JSON.stringify(full()).replaceAll("<", "\\u003c");
      const title = shown.title.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
      const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${title}</title>` +
        `<script>${library}<\/script></head><body><div id="figure"></div><script>const drawing = ${drawing};` +
        `Plotly.newPlot("figure", drawing.data, drawing.layout, ${JSON.stringify(CONFIG)});<\/script></body></html>`;
      save(`${shown.name}.html`, new Blob([html], { type: "text/html" }));
    }

    async function table() {
      const [name, text] = await server.table([shown.query, index]);
      save(name, new Blob([text], { type: "text/csv" }));
    }

    const tools = {
      png: () => image("png"),
      svg: () => image("svg"),
      html: standalone,
      csv: table,
      python: (button) => {
        const open = part("python").toggleAttribute("hidden") === false;
        button.setAttribute("aria-expanded", String(open));
      },
      copy: async (button) => {
        await copy(shown.python);
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      },
      reset: async () => {
        const Plotly = await plotly;
        const axes = Object.keys(plot._fullLayout).filter((name) => /^[xy]axis\d*$/.test(name));
        const start = JSON.parse(props.value).layout;
        const update = {};
        for (const name of axes) {
          const { range, autorange } = start[name] || {};
          if (range) update[`${name}.range`] = range.slice();
          else update[`${name}.autorange`] = autorange ?? true;
        }
        await Plotly.relayout(plot, update);
      },
    };
    root.querySelector("[data-do=python]").setAttribute("aria-expanded", "false");
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-do]");
      if (button && shown) tools[button.dataset.do](button);
    });

    // Tells of the first layout, of tabs that open, of windows that change and of the removal.
    const observer = new ResizeObserver(async () => {
      const Plotly = await plotly;
      if (!plot.isConnected) {
        Plotly.purge(plot);
        observer.disconnect();
        figures.delete(renew);
      } else if (plot.offsetWidth && shown) {
        await draw();
        if (plot._fullLayout && plot._fullLayout.width !== plot.offsetWidth) await Plotly.Plots.resize(plot);
      }
    });
    observer.observe(plot);
    figures.add(renew);
    watch("value", renew);
    renew();
  }

  /* Pictures to choose from: a radio group. `props.value` is {source, own}, own being a picture that was uploaded. */
  function strip(element, props, watch, trigger) {
    const group = element.querySelector(".strip");
    const buttons = () => [...group.querySelectorAll("button")];
    function mark() {
      const { source, own } = props.value;
      if (own && !buttons().some((b) => b.dataset.source === own[0])) {
        const button = buttons()[0].cloneNode(true);
        Object.assign(button.dataset, { source: own[0] });
        button.setAttribute("aria-label", own[1]);
        button.title = own[1];
        button.querySelector("img").src = own[2];
        button.querySelector("span").textContent = own[1];
        group.prepend(button);
      }
      const chosen = buttons().find((b) => b.dataset.source === source);
      buttons().forEach((b) => b.setAttribute("aria-checked", String(b === chosen)));
      buttons().forEach((b) => (b.tabIndex = b === (chosen || buttons()[0]) ? 0 : -1));
    }
    function choose(button) {
      props.value = { source: button.dataset.source, own: null };
      mark();
      trigger("input");
    }
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) choose(button);
    });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const all = buttons();
      const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
      next.focus();
      choose(next);
    });
    watch("value", mark);
    mark();
  }

  /* How far a long computation is: `props.value` is {words, share}, or null where nothing runs. */
  function progress(element, props, watch, trigger) {
    const bar = element.querySelector("progress");
    const root = element.querySelector(".progress");
    function tell() {
      root.hidden = !props.value;
      if (!props.value) return;
      const { words, share } = props.value;
      element.querySelector(".words").textContent = share === null ? `${words} …` : `${words}, ${Math.round(100 * share)} %`;
      if (share === null) bar.removeAttribute("value");
      else bar.value = share;
    }
    element.querySelector("button").addEventListener("click", () => trigger("cancel"));
    watch("value", tell);
    tell();
  }

  /* The address shows the page's state, and the page knows which view is open. */
  function address(query) {
    const url = new URL(location.href);
    const own = [...url.searchParams].filter(([name]) => name.startsWith("__"));
    url.search = new URLSearchParams([...own, ...new URLSearchParams(query)]).toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
    history.replaceState(history.state, "", url);
    document.body.dataset.view = url.searchParams.get("view") || "overview";
  }

  /* What the page said goes with the next thing that is done. */
  const dismiss = () => document.querySelectorAll(".remark").forEach((remark) => (remark.hidden = true));
  addEventListener("click", dismiss, true);
  addEventListener("input", dismiss, true);
  addEventListener("keydown", (event) => event.key === "Escape" && dismiss());

  /* Arrows go from tab to tab, as they do in other programs. */
  addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const tab = event.target.closest("[role=tab]");
    if (!tab || !step) return;
    const all = [...tab.parentElement.querySelectorAll("[role=tab]")].filter((one) => one.offsetParent);
    const next = all[(all.indexOf(tab) + step + all.length) % all.length];
    next.focus();
    next.click();
  });

  function theme() {
    document.body.classList.toggle("dark");
  }

  function begin() {
    document.body.dataset.view = new URLSearchParams(location.search).get("view") || "overview";
    new MutationObserver(() => figures.forEach((renew) => renew())).observe(document.body, {
      attributes: true, attributeFilter: ["class"],
    });
  }
  if (document.body) begin();
  else addEventListener("DOMContentLoaded", begin);
  window.sfkd = { figure, strip, progress, address, theme };
})();
