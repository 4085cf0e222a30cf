// Draws the report from the data in the page. All text comes in as text: nothing from the database is ever parsed as
// HTML. D3 does scales, axes and shapes; the styles of the page colour everything, so light, dark and print need no code.
(function () {
  "use strict";
  var data = JSON.parse(document.getElementById("data").textContent);
  var tooltip = d3.select("#tooltip");
  var hidden = {};  // families that are switched off
  var state = {environment: 0, beside: -1, pattern: null, dtype: null, mode: null, hidden: null, view: "latency"};

  // ---- words and numbers -----------------------------------------------------------------------------------------
  function microseconds(us) { return us < 10 ? us.toFixed(2) : us < 100 ? us.toFixed(1) : us.toFixed(0); }
  function bytes(count) {
    var units = ["B", "KiB", "MiB", "GiB", "TiB"], unit = 0;
    while (count >= 1024 && unit < units.length - 1) { count /= 1024; ++unit; }
    return (count === Math.floor(count) ? count : count.toFixed(1)) + " " + units[unit];
  }
  function interval(low, high) { return low === high ? String(low) : low + "\u2013" + high; }
  function date(seconds) {
    var time = new Date(seconds * 1000);
    return isNaN(time) ? String(seconds) : time.toISOString().slice(0, 16).replace("T", " ");
  }
  function percent(part) {
    if (!isFinite(part)) return "\u2013";
    return (part >= 0 ? "+" : "\u2212") + Math.abs(100 * part).toFixed(1) + "%";
  }
  /// What a file says took no time, less than any clock can tell or longer than there was any, has a place on a
  /// logarithmic axis all the same.
  function drawn(us) { return Math.min(Math.max(us, 1e-3), 1e15); }

  // ---- families --------------------------------------------------------------------------------------------------
  // NCCL is grey; an unfused family has the colour of the algorithm it begins with, broken.
  // An algorithm has the same colour in every report.
  function colour(index) {
    var family = data.families[index];
    return family.backend === "nccl" ? "family-nccl" : "family" + family.colour % 10;
  }
  function dashed(index) {
    var family = data.families[index];
    return family.unfused || family.name === "nccl/symmetric" ? " dashed" : "";
  }
  function familyCell(row, index) {
    var cell = row.append("td");
    if (index < 0) { cell.text("\u2013"); return; }
    cell.append("span").attr("class", "swatch " + colour(index) + dashed(index));
    cell.append("span").text(data.families[index].name);
  }

  // ---- selection -------------------------------------------------------------------------------------------------
  function environment() { return data.environments[state.environment]; }
  /// What is shown: one environment, or two side by side.
  function environments() {
    return state.beside < 0 || state.beside === state.environment ? [environment()] : [environment(), data.environments[state.beside]];
  }
  var files = d3.set(data.environments.map(function (here) { return here.file; })).values();
  function nameOf(here) { return (files.length > 1 ? here.file.replace(/.*\//, "") + ": " : "") + here.title; }
  /// "4 ranks", and of what where two are side by side.
  function caption(world, here) { return world + " ranks" + (environments().length > 1 ? ", " + nameOf(here) : ""); }
  (function () {
    if (files.length < 2) return;
    data.environments.forEach(function (here, i) {
      var same = here.key === environment().key;
      if (here.file !== environment().file && (state.beside < 0 || (same && data.environments[state.beside].key !== here.key))) state.beside = i;
    });
  })();
  function inFamily(entry) {
    return entry.pattern === state.pattern && entry.dtype === state.dtype && entry.mode === state.mode;
  }
  function values(entries, key) {
    return d3.set(entries.map(function (entry) { return entry[key]; })).values();
  }
  function numbers(entries, key) { return values(entries, key).map(Number).sort(d3.ascending); }
  function known() {
    return d3.merge(environments().map(function (here) { return here.problems.length ? here.problems : here.decisions; }));
  }
  /// Keeps what is chosen as long as it exists, else takes the first.
  function settle() {
    var left = known();
    ["pattern", "dtype", "mode", "hidden"].forEach(function (key) {
      var options = key === "hidden" ? numbers(left, key) : values(left, key).sort();
      var wanted = key === "hidden" && state.hidden === null ? 8192 : state[key];
      if (options.indexOf(wanted) < 0) wanted = options[0];
      state[key] = wanted === undefined ? null : wanted;
      state[key + "s"] = options;
      left = left.filter(function (entry) { return entry[key] === state[key]; });
    });
  }
  function describe() {
    return [state.pattern, state.dtype, state.mode].join(", ");
  }

  function drawControls() {
    var form = d3.select("#choose");
    form.html("");
    function select(name, label, options, text) {
      if (options.length < 2 && name === "environment") return;
      var box = form.append("label").text(label).append("select").attr("id", "choose-" + name).on("change", function () {
        var value = this.value;
        state[name] = name === "environment" || name === "beside" || name === "hidden" ? Number(value) : value;
        draw();
        document.getElementById("choose-" + name).focus();
      });
      options.forEach(function (option) {
        box.append("option").attr("value", option).property("selected", option === state[name]).text(text ? text(option) : option);
      });
    }
    select("environment", "environment", d3.range(data.environments.length), function (i) {
      return nameOf(data.environments[i]) + ", " + data.environments[i].key.slice(0, 12);
    });
    if (data.environments.length > 1) {
      select("beside", "beside it", [-1].concat(d3.range(data.environments.length)), function (i) {
        return i < 0 ? "nothing" : nameOf(data.environments[i]) + ", " + data.environments[i].key.slice(0, 12);
      });
    }
    select("pattern", "pattern", state.patterns);
    select("dtype", "dtype", state.dtypes);
    select("mode", "mode", state.modes);
    select("hidden", "hidden size of the curves", state.hiddens);
    // Where the size that a time was taken at is not known, its bandwidth is neither.
    var shown = Object.keys(views).filter(function (view) {
      return view !== "bandwidth" || !environments().some(function (here) { return !here.sizes_known; });
    });
    if (shown.indexOf(state.view) < 0) state.view = "latency";
    select("view", "curves of", shown, function (view) { return views[view].title; });
  }

  // ---- tooltip ---------------------------------------------------------------------------------------------------
  function showTooltip(box, fill) {
    tooltip.html("");
    fill(tooltip);
    tooltip.attr("hidden", null);
    var width = tooltip.node().offsetWidth, height = tooltip.node().offsetHeight;
    var left = box.right + 14, top = box.top;
    if (left + width > window.innerWidth - 8) left = Math.max(8, box.left - width - 14);
    if (top + height > window.innerHeight - 8) top = Math.max(8, window.innerHeight - height - 8);
    tooltip.style({left: left + window.pageXOffset + "px", top: top + window.pageYOffset + "px"});
  }
  function hideTooltip() { tooltip.attr("hidden", ""); }

  // ---- curves ----------------------------------------------------------------------------------------------------
  function ncclOf(problem) {
    var times = problem.points.filter(function (point) { return data.families[point[0]].backend === "nccl"; });
    return d3.min(times, function (point) { return point[2]; });
  }
  function busBandwidth(problem, us) { return problem.bytes / drawn(us) * 1e-3 * 2 * (problem.world - 1) / problem.world; }
  var views = {
    latency: {
      title: "latency", unit: "\u00b5s", log: true, format: microseconds,
      explain: "The best candidate of each family at each size: the median, and its 95% confidence interval as a band. " +
          "A large point is the winner's.",
      value: function (problem, us) { return drawn(us); }
    },
    bandwidth: {
      title: "bus bandwidth", unit: "GB/s", log: true, format: d3.format(".3r"),
      explain: "Bytes of one rank's message per second, times 2(N\u22121)/N: bus bandwidth as nccl-tests defines it.",
      value: busBandwidth
    },
    speedup: {
      title: "speed-up over NCCL", unit: "times", log: true, format: d3.format(".2f"),
      explain: "The time of the fastest NCCL candidate of the same size divided by the family's.",
      value: function (problem, us) {
        var nccl = ncclOf(problem);
        return nccl === undefined ? NaN : drawn(nccl) / drawn(us);
      }
    }
  };

  function powerTicks(domain, step) {
    var ticks = [], at = Math.pow(2, Math.ceil(Math.log(domain[0]) / Math.LN2 - 1e-9));
    for (; at <= domain[1] * 1.0001; at *= 2) ticks.push(at);
    if (ticks.length < 2) return domain[0] === domain[1] ? [domain[0]] : [domain[0], domain[1]];
    var every = Math.max(1, Math.ceil(ticks.length / step));
    return ticks.filter(function (tick, i) { return i % every === 0; });
  }
  /// Of a short axis too, on which none of 1, 2 and 5 lies.
  function decimalTicks(domain) {
    var ticks = digitTicks(domain);
    return ticks.length > 2 ? ticks : d3.scale.linear().domain(domain).ticks(5).filter(function (tick) { return tick > 0; });
  }
  function digitTicks(domain) {
    var ticks = [];
    for (var power = Math.pow(10, Math.floor(Math.log(domain[0]) / Math.LN10)); power <= domain[1]; power *= 10) {
      [1, 2, 5].forEach(function (digit) {
        if (digit * power >= domain[0] && digit * power <= domain[1]) ticks.push(digit * power);
      });
    }
    return ticks;
  }

  var size = {width: 440, height: 300, left: 52, right: 26, top: 12, bottom: 36};
  /// One figure has the page's width, several share it.
  function arrange(facets, figures) {
    facets.classed("single", figures === 1);
    size.width = figures === 1 ? 920 : 440;
    size.height = figures === 1 ? 360 : 300;
  }

  function frame(figure, label, height) {
    return figure.append("svg").attr({viewBox: "0 0 " + size.width + " " + height, "aria-label": label});
  }
  function axes(svg, height, x, xTicks, xText, y, yTicks, yText, xName, yName) {
    var bottom = height - size.bottom;
    svg.append("g").attr({"class": "grid", transform: "translate(" + size.left + ",0)"})
        .call(d3.svg.axis().scale(y).orient("left").tickValues(yTicks).tickSize(-(size.width - size.left - size.right)).tickFormat(""));
    svg.append("g").attr({"class": "grid", transform: "translate(0," + bottom + ")"})
        .call(d3.svg.axis().scale(x).orient("bottom").tickValues(xTicks).tickSize(-(bottom - size.top)).tickFormat(""));
    svg.append("g").attr({"class": "axis x", transform: "translate(0," + bottom + ")"})
        .call(d3.svg.axis().scale(x).orient("bottom").tickValues(xTicks).tickSize(4).tickFormat(xText));
    svg.append("g").attr({"class": "axis y", transform: "translate(" + size.left + ",0)"})
        .call(d3.svg.axis().scale(y).orient("left").tickValues(yTicks).tickSize(4).tickFormat(yText));
    svg.append("text").attr({x: size.width - size.right, y: height - 3, "text-anchor": "end"}).text(xName);
    if (yName) svg.append("text").attr({x: size.left + 6, y: size.top + 9}).text(yName);
  }

  function drawLegend(shown) {
    var legend = d3.select("#curves .legend");
    legend.html("");
    shown.forEach(function (index) {
      var button = legend.append("button").attr({type: "button", "aria-pressed": hidden[index] ? "false" : "true"});
      button.append("svg").attr({viewBox: "0 0 26 10", "aria-hidden": "true"}).append("line")
          .attr({x1: 0, x2: 26, y1: 5, y2: 5, "stroke-width": 3, "class": "stroke " + colour(index) + dashed(index)});
      button.append("span").text(data.families[index].name);
      button.on("click", function () {
        hidden[index] = !hidden[index];
        drawCurves();
        d3.select(legend.selectAll("button")[0][shown.indexOf(index)]).node().focus();
      });
    });
  }

  function drawCurves() {
    var section = d3.select("#curves"), facets = section.select(".facets"), view = views[state.view];
    facets.html("");
    var snapshots = environments().filter(function (here) { return here.snapshot; });
    section.select("#curves-explain").text(view.explain + (snapshots.length === 0 ? "" :
      snapshots.every(function (here) { return here.sizes_known; }) ?
        " A snapshot holds only winners and runner-ups, each at one size." :
        " A snapshot holds only winners and runner-ups, drawn where their intervals end: they were timed at that size or a smaller one."));
    section.select(".selection").text(describe() + ", hidden size " + state.hidden + ": " + view.title);
    function chosen(problem) { return inFamily(problem) && problem.hidden === state.hidden; }
    var problems = d3.merge(environments().map(function (here) { return here.problems.filter(chosen); }));
    var shown = d3.set(d3.merge(problems.map(function (problem) {
      return problem.points.map(function (point) { return point[0]; });
    }))).values().map(Number).sort(d3.ascending);
    drawLegend(shown);
    var visible = [];
    problems.forEach(function (problem) {
      problem.points.forEach(function (point) {
        if (!hidden[point[0]]) visible.push(view.value(problem, point[3]), view.value(problem, point[4]));
      });
    });
    visible = visible.filter(isFinite);
    if (!visible.length) {
      facets.append("p").attr("class", "note").text(problems.length ?
          "Nothing to draw: every family is switched off, or NCCL was not measured." :
          "Nothing was measured here.");
      return;
    }
    var panels = [];
    numbers(problems, "world").forEach(function (world) {
      environments().forEach(function (place) {
        var here = place.problems.filter(function (problem) { return chosen(problem) && problem.world === world; });
        if (here.length) panels.push({world: world, place: place, problems: here});
      });
    });
    arrange(facets, panels.length);
    var yDomain = [d3.min(visible) / 1.15, d3.max(visible) * 1.15];
    var xDomain = d3.extent(problems, function (problem) { return problem.bytes; });
    if (xDomain[0] === xDomain[1]) xDomain = [xDomain[0] / 2, xDomain[1] * 2];
    var x = d3.scale.log().base(2).domain(xDomain).range([size.left, size.width - size.right]);
    var y = d3.scale.log().domain(yDomain).range([size.height - size.bottom, size.top]);

    panels.forEach(function (panel) {
      var world = panel.world, here = panel.problems.sort(function (a, b) { return a.bytes - b.bytes; });
      var figure = facets.append("figure");
      figure.append("figcaption").text(caption(world, panel.place));
      var svg = frame(figure, view.title + " over message size on " + world + " ranks; arrow keys go from size to size", size.height);
      svg.attr({tabindex: 0, role: "img"});
      axes(svg, size.height, x, powerTicks(xDomain, panels.length === 1 ? 14 : 7), bytes, y, decimalTicks(yDomain), function (v) { return String(+v.toPrecision(3)); },
           "message of one rank", view.unit);
      shown.forEach(function (index) {
        if (hidden[index]) return;
        var points = [];
        here.forEach(function (problem) {
          problem.points.forEach(function (point) {
            if (point[0] === index && isFinite(view.value(problem, point[2]))) points.push({problem: problem, point: point});
          });
        });
        function at(i) { return function (d) { return y(view.value(d.problem, d.point[i])); }; }
        function across(d) { return x(d.problem.bytes); }
        svg.append("path").datum(points).attr("class", "band fill " + colour(index))
            .attr("d", d3.svg.area().x(across).y0(at(3)).y1(at(4)));
        svg.append("path").datum(points).attr("class", "curve stroke " + colour(index) + dashed(index))
            .attr("data-family", data.families[index].name).attr("d", d3.svg.line().x(across).y(at(2)));
        points.forEach(function (d) {
          var won = index === d.problem.winner_family;
          svg.append("circle").attr({cx: across(d), cy: at(2)(d), r: won ? 4.2 : 1.7,
                                     "class": (won ? "won " : "dot ") + "fill " + colour(index)});
        });
      });
      follow(svg, here, x, y, view);
    });
  }

  /// Pointer and arrow keys go from size to size; the tooltip lists every family there.
  function follow(svg, problems, x, y, view) {
    var line = svg.append("line").attr({"class": "cross", y1: size.top, y2: size.height - size.bottom, visibility: "hidden"});
    var current = -1;
    function show(index) {
      current = index;
      var problem = problems[index], at = x(problem.bytes);
      line.attr({x1: at, x2: at, visibility: "visible"});
      var outer = svg.node().getBoundingClientRect(), scale = outer.width / size.width;
      var left = outer.left + at * scale;
      showTooltip({left: left, right: left, top: outer.top + 12}, function (box) {
        box.append("div").attr("class", "head").text(interval(problem.tokens, problem.tokens) + " tokens, " + bytes(problem.bytes) +
            ", " + problem.world + " ranks");
        var table = box.append("table");
        problem.points.slice().sort(function (a, b) { return a[2] - b[2]; }).forEach(function (point) {
          if (hidden[point[0]]) return;
          var row = table.append("tr").attr("class", point[0] === problem.winner_family ? "chosen" : null);
          familyCell(row, point[0]);
          row.append("td").attr("class", "number").text(view.format(view.value(problem, point[2])) + " " + view.unit);
          row.append("td").text(point[3] === point[4] ? "" : view.format(view.value(problem, point[3])) + " to " +
              view.format(view.value(problem, point[4])));
        });
        if (problem.winner >= 0) box.append("div").attr("class", "small").text(data.candidates[problem.winner]);
        if (problem.tried) {
          box.append("div").attr("class", "small").text(problem.timed + " candidates timed, " +
              (problem.tried - problem.timed) + " not (wrong, failed, pruned)");
        }
      });
    }
    function hide() { line.attr("visibility", "hidden"); hideTooltip(); }
    svg.on("mousemove", function () {
      var at = d3.mouse(this)[0], best = 0;
      problems.forEach(function (problem, i) {
        if (Math.abs(x(problem.bytes) - at) < Math.abs(x(problems[best].bytes) - at)) best = i;
      });
      show(best);
    });
    svg.on("mouseleave", hide).on("blur", hide);
    svg.on("focus", function () { if (current < 0) show(0); });
    svg.on("keydown", function () {
      var key = d3.event.key, last = problems.length - 1;
      if (key === "Escape") return hide();
      var to = {ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: last}[key];
      if (to === undefined) return;
      d3.event.preventDefault();
      show(Math.max(0, Math.min(last, to)));
    });
  }

  /// "2.4x": how many times as fast as NCCL; empty where that is not known.
  function speedup(decision) {
    return decision.nccl_us > 0 && decision.us > 0 ? (decision.nccl_us / decision.us).toFixed(1) + "\u00d7" : "";
  }

  // ---- maps ------------------------------------------------------------------------------------------------------
  function drawMaps() {
    var section = d3.select("#maps"), facets = section.select(".facets");
    facets.html("");
    section.select(".selection").text(describe());
    var decisions = d3.merge(environments().map(function (here) { return here.decisions.filter(inFamily); }));
    if (!decisions.length) {
      facets.append("p").attr("class", "note").text("Nothing is decided here.");
      return;
    }
    // An interval reaches to just below the next size; the last of a family may be open-ended.
    var measured = d3.merge(environments().map(function (here) { return here.problems.filter(inFamily); }));
    var most = Math.max(d3.max(decisions, function (d) { return d.tokens_min; }),
                        measured.length ? d3.max(measured, function (p) { return p.tokens; })
                                        : d3.max(decisions, function (d) { return Math.min(d.tokens_max, 1048576); }));
    var hiddens = numbers(decisions, "hidden"), panels = [];
    numbers(decisions, "world").forEach(function (world) {
      environments().forEach(function (place) {
        var here = place.decisions.filter(function (d) { return inFamily(d) && d.world === world; });
        if (here.length) panels.push({world: world, place: place, decisions: here});
      });
    });
    arrange(facets, panels.length);
    var x = d3.scale.log().base(2).domain([1, most + 1]).range([size.left + 8, size.width - size.right]);
    panels.forEach(function (panel, index) {
      var world = panel.world, here = panel.decisions, hatch = "hatch-" + index;
      var figure = facets.append("figure");
      figure.append("figcaption").text(caption(world, panel.place));
      // As high as there are rows, within reason.
      var height = size.top + size.bottom + Math.min(size.height - size.top - size.bottom, 42 * hiddens.length);
      var svg = frame(figure, "the winner for each number of tokens and hidden size on " + world + " ranks", height);
      svg.attr("role", "group");
      var pattern = svg.append("defs").append("pattern")
          .attr({id: hatch, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)"});
      pattern.append("line").attr({"class": "hatch", x1: 0, x2: 0, y1: 0, y2: 8});
      var y = d3.scale.ordinal().domain(hiddens.slice().reverse()).rangeBands([size.top, height - size.bottom], 0.06, 0.03);
      axes(svg, height, x, powerTicks([1, most], 8), d3.format("d"), y, hiddens, String, "tokens", "");
      var areas = here.map(function (d, i) {
        var left = x(Math.min(d.tokens_min, most)), right = x(Math.min(d.tokens_max, most) + 1);
        var rect = svg.append("rect").datum(d).attr({
          "class": "area fill " + colour(d.family), x: left, width: Math.max(1, right - left), y: y(d.hidden), height: y.rangeBand(),
          tabindex: i ? -1 : 0, role: "img", "data-family": data.families[d.family].name,
          "aria-label": "hidden " + d.hidden + ", tokens " + interval(d.tokens_min, d.tokens_max) + ": " + data.families[d.family].name
        });
        if (dashed(d.family)) {
          svg.append("rect").attr({x: left, width: Math.max(1, right - left), y: y(d.hidden), height: y.rangeBand(),
                                   fill: "url(#" + hatch + ")", "pointer-events": "none"});
        }
        // The longest of its names that fits.
        var family = data.families[d.family];
        function fits(text) { return text && text.length * 6.3 < right - left; }
        var name = [family.name, family.backend === "nccl" ? "nccl" : family.algorithm].filter(fits)[0];
        var lines = [name, speedup(d)].filter(fits), middle = y(d.hidden) + y.rangeBand() / 2 + 4;
        if (lines.length > 1 && y.rangeBand() < 28) lines = fits(lines.join(" ")) ? [lines.join(" ")] : [lines[1]];
        if (y.rangeBand() > 13) {
          lines.forEach(function (line, i) {
            svg.append("text").attr({"class": "area-name", x: (left + right) / 2, y: middle + 13 * (i - (lines.length - 1) / 2), "text-anchor": "middle"})
                .text(line);
          });
        }
        return rect;
      });
      areas.forEach(function (rect, i) {
        var d = rect.datum();
        function show() {
          showTooltip(rect.node().getBoundingClientRect(), function (box) {
            box.append("div").attr("class", "head").text("hidden " + d.hidden + ", tokens " + interval(d.tokens_min, d.tokens_max) + ", " + world + " ranks");
            var table = box.append("table"), row = table.append("tr").attr("class", "chosen");
            familyCell(row, d.family);
            row.append("td").attr("class", "number").text(microseconds(d.us) + " \u00b5s");
            if (speedup(d)) row.append("td").text(speedup(d) + " NCCL");
            if (d.runner_up >= 0) {
              row = table.append("tr");
              familyCell(row, d.runner_up);
              row.append("td").attr("class", "number").text(microseconds(d.runner_up_us) + " \u00b5s, " + percent(d.runner_up_us / d.us - 1));
            }
            box.append("div").attr("class", "small").text(data.candidates[d.candidate]);
          });
        }
        rect.on("mouseenter", show).on("focus", show).on("mouseleave", hideTooltip).on("blur", hideTooltip);
        rect.on("keydown", function () {
          var step = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[d3.event.key];
          if (d3.event.key === "Escape") hideTooltip();
          if (!step) return;
          d3.event.preventDefault();
          var row = hiddens[hiddens.indexOf(d.hidden) + step[1]];
          var to = step[0] ? here[i + step[0]] : here.filter(function (other) {
            return other.hidden === row && other.tokens_min <= d.tokens_min && d.tokens_min <= other.tokens_max;
          })[0];
          if (!to || (step[0] && to.hidden !== d.hidden)) return;
          var target = areas[here.indexOf(to)];
          rect.attr("tabindex", -1);
          target.attr("tabindex", 0).node().focus();
        });
      });
    });
  }

  // ---- tables ----------------------------------------------------------------------------------------------------
  function header(table, names) {
    table.html("");
    var row = table.append("thead").append("tr");
    names.forEach(function (name) {
      row.append("th").attr({scope: "col", "class": name[0] === "#" ? "number" : null}).text(name.replace("#", ""));
    });
    return table.append("tbody");
  }
  function number(row, text) { row.append("td").attr("class", "number").text(text); }

  /// The name of the family, and below it the parameters that a candidate of it has.
  function candidateCell(row, family, candidate) {
    familyCell(row, family);
    var name = data.candidates[candidate], colon = name.indexOf(":");
    if (colon < 0) return;
    // A break is allowed behind a comma.
    d3.select(row.node().lastChild).append("div").attr("class", "parameters").text(name.slice(colon + 1).replace(/,/g, ",\u200b"));
  }

  function drawDecisions() {
    var several = environments().length > 1;
    var body = header(d3.select("#decisions table"), (several ? ["from"] : []).concat(
        ["pattern", "dtype", "mode", "#ranks", "#hidden", "#tokens", "#timed at", "winner", "#\u00b5s", "#vs NCCL", "runner-up", "#\u00b5s", "#gain"]));
    var all = d3.merge(environments().map(function (here) {
      return here.decisions.map(function (d) { return {from: nameOf(here), decision: d}; });
    }));
    all.forEach(function (entry) {
      var d = entry.decision, row = body.append("tr");
      if (several) row.append("td").text(entry.from);
      [d.pattern, d.dtype, d.mode].forEach(function (text) { row.append("td").text(text); });
      [d.world, d.hidden, interval(d.tokens_min, d.tokens_max), d.bytes_timed ? bytes(d.bytes_timed) : "\u2264 " + bytes(d.bytes_max)].forEach(function (text) { number(row, text); });
      candidateCell(row, d.family, d.candidate);
      number(row, microseconds(d.us));
      number(row, speedup(d) || "\u2013");
      familyCell(row, d.runner_up);
      number(row, d.runner_up < 0 ? "\u2013" : microseconds(d.runner_up_us));
      number(row, d.runner_up < 0 ? "\u2013" : percent(d.runner_up_us / d.us - 1));
    });
    filterDecisions();
  }
  function filterDecisions() {
    var words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    d3.selectAll("#decisions tbody tr").style("display", function () {
      var text = this.textContent.toLowerCase();
      return words.every(function (word) { return text.indexOf(word) >= 0; }) ? null : "none";
    });
  }

  function drawEnvironment() {
    var places = d3.select("#environment .places");
    places.html("");
    environments().forEach(function (here) { drawPlace(places.append("div"), here); });
  }
  function drawPlace(place, here) {
    if (environments().length > 1) place.append("h3").text(nameOf(here));
    var list = place.append("dl");
    here.facts.forEach(function (fact) {
      if (fact[1] === "") return;
      var pair = list.append("div");
      pair.append("dt").text(fact[0]);
      pair.append("dd").text(fact[1]);
    });
    place.append("h3").text(here.runs.length ? "Runs" : here.snapshot ? "No runs: this file is a snapshot, which keeps decisions only" :
        "No runs: arbiter bench measured this");
    if (!here.runs.length) return;
    var body = header(place.append("div").attr({"class": "scroll", tabindex: 0, role: "region", "aria-label": "Runs"}).append("table"),
        ["started (UTC)", "#took", "host", "#trials", "#done", "SM clock MHz", "power W", "run", "command"]);
    function fromTo(values, dropped) {  // 0: not known
      return values[0] || values[1] ? values.join(" \u2192 ") + (dropped ? ", dropped" : "") : "\u2013";
    }
    here.runs.forEach(function (run) {
      var row = body.append("tr");
      row.append("td").text(date(run.started));
      number(row, run.finished ? run.finished - run.started + " s" : "not finished");
      row.append("td").text(run.host);
      number(row, run.trials);
      number(row, run.done);
      row.append("td").text(fromTo(run.clocks, run.clocks_dropped));
      row.append("td").text(fromTo(run.power, run.power_dropped));
      row.append("td").text(run.id.slice(0, 8));
      row.append("td").attr("class", "long").text(run.command);
    });
  }

  // ---- the page --------------------------------------------------------------------------------------------------
  /// "; 1.2 to 3.7 times as fast as NCCL, 17 decisions"
  function summary() {
    var here = environment().decisions, ratios = here.filter(speedup).map(function (d) { return d.nccl_us / d.us; });
    var over = ratios.length ? "; " + d3.min(ratios).toFixed(1) + " to " + d3.max(ratios).toFixed(1) + " times as fast as NCCL" : "";
    return over + (here.length ? (over ? ", " : "; ") + here.length + " decisions" : "");
  }
  function draw() {
    settle();
    hideTooltip();
    drawControls();
    drawCurves();
    drawMaps();
    drawDecisions();
    drawEnvironment();
    d3.select("#subtitle").text(environments().map(function (here) {
      return here.title + ", environment " + here.key.slice(0, 12) + ", from " + here.file;
    }).join("; beside it ") + summary());
    document.title = "Arbiter report: " + environment().title;
  }
  document.getElementById("filter").addEventListener("input", filterDecisions);
  document.getElementById("choose").addEventListener("submit", function (event) { event.preventDefault(); });
  d3.select("#made-by").text("Made by arbiter " + data.version + " (arbiter report). Everything is in this file; it opens without a network.");
  draw();
  document.documentElement.setAttribute("data-drawn", "yes");
})();
