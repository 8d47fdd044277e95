//! The page itself.

use std::fmt::Write as _;

use super::super::{
    plot::{Plot, escaped, style},
    results::{Results, Route},
    stats::{self, Row},
    table,
};

const STYLE: &str = "
:root{--bg:#fff;--fg:#1a1d21;--muted:#5a616c;--grid:#e3e6ea;--card:#f6f7f9;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e8eaed;--muted:#a3abb6;--grid:#2b3138;--card:#1b1f25}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 4rem;background:var(--bg);color:var(--fg);
 font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0}
h2{font-size:1.15rem;margin:2.4rem 0 .3rem}
p,li{max-width:44rem}
.muted{color:var(--muted)}
figure{margin:1rem 0;padding:.6rem;background:var(--card);border-radius:.5rem;overflow-x:auto}
figure svg{display:block;width:100%;min-width:30rem;height:auto}
figcaption{font-weight:600;padding:.2rem .3rem .5rem}
.key{display:none;font-size:.85rem;padding:0 .3rem .4rem}
.key span{margin-right:.9rem;white-space:nowrap}
.key b{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.35em}
@media (max-width:44rem){.key{display:block}}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;white-space:nowrap}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
small{color:var(--muted)}
";

/// The whole page.
pub(super) fn html(results: &Results, plots: &[Plot]) -> String {
    let rows = stats::rows(results);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Service routing modes</title><style>{STYLE}</style></head><body>"
    );
    head(&mut page, results);
    for (setting, list) in table::groups(&rows) {
        write(&mut page, format_args!("<h2>{}</h2>", escaped(&table::head(&setting))));
        let name = super::word(&setting);
        for plot in plots.iter().filter(|plot| plot.name.starts_with(&name)) {
            write(
                &mut page,
                format_args!(
                    "<figure><figcaption>{}</figcaption>{}{}</figure>",
                    escaped(&plot.title),
                    key(plot),
                    plot.inline()
                ),
            );
        }
        one(&mut page, &list);
    }
    missing(&mut page, results);
    how(&mut page, results);
    page.push_str("</body></html>\n");
    page
}

/// The names of the lines, for screens that show a part of the plot.
fn key(plot: &Plot) -> String {
    let mut key = "<div class=\"key\">".to_owned();
    for line in &plot.lines {
        let (colour, _) = style(line.route);
        let name = line.route.name();
        write(&mut key, format_args!("<span><b style=\"background:{colour}\"></b>{name}</span> "));
    }
    key.push_str("</div>");
    key
}

fn head(page: &mut String, results: &Results) {
    let machine = &results.machine;
    let versions: Vec<String> =
        machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let how = if machine.virtual_by.is_empty() {
        String::new()
    } else {
        format!(", virtual ({})", machine.virtual_by)
    };
    write(
        page,
        format_args!(
            "<h1>Service routing modes, from one service to many</h1><p class=\"muted\">{} · preset {} · {} × {}, \
         {} MiB{how} · Linux {} · load {:.1} at the beginning · {}</p>",
            escaped(&results.started),
            escaped(&results.preset),
            machine.cores,
            escaped(&machine.processor),
            machine.memory_mib,
            escaped(&machine.kernel),
            machine.load,
            escaped(&versions.join(" · ")),
        ),
    );
    if results.finished.is_empty() {
        page.push_str("<p><strong>This run is not finished.</strong></p>");
    }
}

fn one(page: &mut String, list: &[&Row]) {
    let mut routes: Vec<Route> =
        list.iter().flat_map(|(_, routes)| routes.iter().map(|(route, _)| *route)).collect();
    routes.sort_unstable();
    routes.dedup();
    routes.retain(|route| *route != Route::DirectAgain);
    page.push_str("<div class=\"scroll\"><table><thead><tr><th>services</th>");
    for route in &routes {
        let (colour, _) = style(*route);
        write(
            page,
            format_args!("<th style=\"box-shadow:inset 0 -3px {colour}\">{}</th>", route.name()),
        );
    }
    page.push_str("<th>noise</th></tr></thead><tbody>");
    for (setting, cells) in list {
        write(
            page,
            format_args!(
                "<tr><td>{} <small>{}</small></td>",
                table::size(setting.services),
                table::position(setting.position)
            ),
        );
        let direct = stats::of(cells, Route::Direct);
        for route in &routes {
            let Some(summary) = stats::of(cells, *route) else {
                page.push_str("<td>–</td>");
                continue;
            };
            let change = direct
                .filter(|_| *route != Route::Direct)
                .and_then(|direct| stats::change(direct.median, summary.median))
                .map(|it| format!(" <small>{:+.0} %</small>", it * 100.0));
            write(
                page,
                format_args!(
                    "<td title=\"{} to {}, {} samples\">{}{}</td>",
                    table::number(summary.low),
                    table::number(summary.high),
                    summary.count,
                    table::number(summary.median),
                    change.unwrap_or_default()
                ),
            );
        }
        let noise = stats::noise(cells).map(|it| format!("±{:.0} %", it * 100.0));
        write(page, format_args!("<td>{}</td></tr>", noise.as_deref().unwrap_or("–")));
    }
    page.push_str("</tbody></table></div>");
}

fn missing(page: &mut String, results: &Results) {
    if results.missing.is_empty() {
        return;
    }
    page.push_str("<h2>What could not be measured</h2><ul>");
    for it in &results.missing {
        let size = it.services.map(|it| format!(" with {} services", table::size(it)));
        let measure = it.measure.map(|it| format!(", {}", table::title(it).to_lowercase()));
        write(
            page,
            format_args!(
                "<li>{}{}{}: {}</li>",
                it.route.name(),
                size.unwrap_or_default(),
                measure.unwrap_or_default(),
                escaped(&it.why)
            ),
        );
    }
    page.push_str("</ul>");
}

fn how(page: &mut String, results: &Results) {
    page.push_str(
        "<h2>How it was measured</h2><ul>\
         <li>Client, node and endpoint hosts are network namespaces of one machine; each mode has a node of \
         its own, and all of them take turns, so that whatever disturbs one disturbs the others too.</li>\
         <li>Figures are medians of all samples. Bands and the numbers behind a cell go from the lowest to the \
         highest round's median, and with six rounds or more they are the 95 % interval by order statistics.</li>\
         <li>Noise is by how much two measurements of direct connections differ, one of which took its turn as if it \
         were another mode. A difference below it means nothing.</li>\
         <li>The small percentage is the difference to direct connections.</li>\
         <li>That packets took the way which a row names is checked by counters:</li></ul>",
    );
    let mut evidence: Vec<(Route, &str)> =
        results.series.iter().map(|it| (it.route, it.evidence.as_str())).collect();
    evidence.retain(|(_, text)| !text.is_empty());
    evidence.sort_unstable();
    evidence.dedup_by_key(|(route, _)| *route);
    page.push_str("<ul>");
    for (route, text) in evidence {
        write(page, format_args!("<li>{}: {}</li>", route.name(), escaped(text)));
    }
    page.push_str("</ul>");
}

fn write(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _: std::fmt::Result = text.write_fmt(what);
}
