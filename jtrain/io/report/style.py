"""How a report looks (CSS), and the little that scripts add to it: numbers under the pointer, sorted tables."""

STYLE = """
:root{--ground:#fafaf8;--card:#fff;--ink:#1b1f24;--soft:#57606b;--line:#e2e4e7;--faint:#f0f1f2;--accent:#0b62a8;
--accent-soft:#e7f0f8;--warn:#94430a;--warn-soft:#fcf0e4;--hit:11,98,168;--miss:190,76,0;
--s0:#68717c;--s1:#0b62a8;--s2:#b84600;--s3:#00765a;--s4:#9a3c78;--s5:#755800;color-scheme:light}
@media screen and (prefers-color-scheme:dark){:root{
--ground:#15181c;--card:#1c2025;--ink:#e6e8ea;--soft:#a3acb6;--line:#333940;
--faint:#262b31;--accent:#6cb8f2;--accent-soft:#1b3145;--warn:#f0ab6f;--warn-soft:#38281a;--hit:72,150,214;
--miss:222,120,50;--s0:#98a2ad;--s1:#6cb8f2;--s2:#ff9d5c;--s3:#4fcba4;--s4:#e39ac6;--s5:#dcbd54;color-scheme:dark}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Noto Sans","Liberation Sans",sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:62rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:3rem}
h1{font-size:1.75rem;line-height:1.2;font-weight:650;letter-spacing:-.015em;margin:0 0 .6rem}
h2{font-size:1.25rem;line-height:1.3;font-weight:650;letter-spacing:-.01em;margin:0 0 1rem}
h3{font-size:.95rem;line-height:1.4;font-weight:600;margin:0}
p{margin:0 0 .8rem;max-width:44rem}
.lead{font-size:1.08rem;color:var(--ink)}.soft{color:var(--soft)}.small{font-size:.875rem}
a{color:var(--accent);text-underline-offset:.15em}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:3px}
section{margin-top:3.25rem;scroll-margin-top:1rem}
nav{display:flex;flex-wrap:wrap;gap:.35rem 1.15rem;margin-top:1.4rem;padding-top:.9rem;border-top:1px solid var(--line);
font-size:.875rem}
nav a{text-decoration:none}nav a:hover{text-decoration:underline}
footer{padding-top:3rem;padding-bottom:3rem;color:var(--soft);font-size:.8125rem}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.86em}
pre{background:var(--faint);border-radius:8px;padding:.9rem 1rem;margin:0 0 .9rem;white-space:pre-wrap;
overflow-wrap:anywhere;user-select:all}
.command{white-space:pre;overflow-x:auto;overflow-wrap:normal}
code{background:var(--faint);border-radius:4px;padding:.08em .32em}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));background:var(--card);
border:1px solid var(--line);border-radius:12px;overflow:hidden;margin:1.5rem 0 0}
.tiles>div{box-shadow:1px 0 0 var(--line),0 1px 0 var(--line);padding:.95rem 1.1rem 1rem;display:flex;
flex-direction:column}
.tiles dt{font-size:.8125rem;color:var(--soft);line-height:1.35}
.tiles dd{margin:auto 0 0;padding-top:.15rem;font-size:1.4rem;white-space:nowrap;
font-weight:600;line-height:1.25;letter-spacing:-.01em;
font-variant-numeric:tabular-nums}
.tiles .main dd{color:var(--accent)}
.tiles small{display:block;font-size:.8125rem;font-weight:400;color:var(--soft);letter-spacing:0;
line-height:1.4;white-space:normal}
.charts{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:2rem 1.75rem;margin-top:2rem}
.chart{margin:0;min-width:0;break-inside:avoid}.wide{grid-column:1/-1}
.chart figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:baseline;gap:.1rem 1rem;
margin-bottom:.35rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .95rem;margin:0;padding:0;list-style:none;font-size:.8125rem;
color:var(--soft)}
.legend svg{width:1.7rem;height:.7rem;vertical-align:-.02rem;margin-right:.35rem;overflow:visible}
.plot{display:grid;grid-template-columns:3.1rem minmax(0,1fr);grid-template-rows:auto 10.5rem 1.4rem}
.wide .plot{grid-template-rows:auto 17rem 1.4rem}
.square .plot{grid-template-rows:auto 19rem 1.4rem}.square{max-width:30rem}
.marks{grid-column:2;position:relative;height:0}.marks.some{height:1.5rem}
.mark{position:absolute;transform:translateX(-50%);min-width:1.2rem;height:1.2rem;padding:0 .3rem;border-radius:.6rem;
background:var(--ink);color:var(--ground);font-size:.7rem;line-height:1.2rem;text-align:center;font-weight:600;
white-space:nowrap;font-variant-numeric:tabular-nums;overflow-wrap:normal}
.mark.told{background:var(--warn)}
.ys{grid-column:1;grid-row:2;position:relative}.ys span,.xs span{position:absolute;font-size:.75rem;line-height:1;
color:var(--soft);white-space:nowrap;font-variant-numeric:tabular-nums;overflow-wrap:normal}
.ys span{right:.5rem;transform:translateY(-50%)}
.xs{grid-column:2;grid-row:3;position:relative}.xs span{top:.45rem;transform:translateX(-50%)}
.xs .first{transform:none}.xs .last{transform:translateX(-100%)}
.area{grid-column:2;grid-row:2;position:relative;min-width:0}
.area svg{position:absolute;inset:0;width:100%;height:100%;display:block;overflow:visible;border-radius:3px;
background:var(--card)}
svg *{vector-effect:non-scaling-stroke;fill:none;stroke-linecap:round;stroke-linejoin:round}
.grid{stroke:var(--line);stroke-width:1;stroke-linecap:butt}.frame{stroke:var(--line);stroke-width:1}
.event{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3;stroke-linecap:butt}
.event.told{stroke:var(--warn);stroke-dasharray:5 3}
.line{stroke-width:1.75}.dots{stroke-width:5}.ring{stroke-width:12}.hole{stroke-width:5;stroke:var(--card)}
.c0{stroke:var(--s0)}.c1{stroke:var(--s1)}.c2{stroke:var(--s2)}.c3{stroke:var(--s3)}.c4{stroke:var(--s4)}
.c5{stroke:var(--s5)}.pale{stroke-width:1;opacity:.32;stroke-linecap:butt}.thin{stroke-width:1.25}
.at{position:absolute;top:0;bottom:0;width:1px;background:var(--soft);pointer-events:none;display:none}
.read{position:absolute;top:.4rem;z-index:1;pointer-events:none;display:none;background:var(--ink);color:var(--ground);
border-radius:6px;padding:.35rem .55rem;font-size:.75rem;line-height:1.45;white-space:pre;
font-variant-numeric:tabular-nums;overflow-wrap:normal}
.events{margin:1.1rem 0 0;padding:0;list-style:none;font-size:.875rem}
.events li{display:grid;grid-template-columns:1.9rem minmax(0,1fr);padding:.3rem 0;border-top:1px solid var(--faint)}
.events li:first-child{border-top:0}
.events .mark{position:static;transform:none;justify-self:start;align-self:start;margin-top:.1rem}
.events b{font-weight:600}.events .text{white-space:pre-line}
.scroll{overflow-x:auto;margin:0 0 1rem;border:1px solid var(--line);border-radius:10px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.875rem;line-height:1.45;overflow-wrap:normal}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.42rem .85rem;text-align:left;vertical-align:top;border-top:1px solid var(--faint)}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:.8125rem;white-space:nowrap;background:var(--card)}
tbody th{font-weight:500}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.charts+h3{margin:1.6rem 0 .6rem}.sortable td,.sortable th{white-space:nowrap}
.sortable td.text{white-space:normal;min-width:16rem}
.best{background:var(--accent-soft)}.best th{font-weight:650}
.sortable thead th{cursor:pointer}.sortable thead th[aria-sort]{color:var(--ink)}
[aria-sort=ascending]::after{content:" \\2191"}[aria-sort=descending]::after{content:" \\2193"}
.pairs{margin:0 0 1rem;font-size:.875rem}.pairs div{display:grid;grid-template-columns:11rem minmax(0,1fr);
gap:.2rem 1rem;padding:.35rem 0;border-top:1px solid var(--line)}.pairs div:first-child{border-top:0}
.pairs dt{color:var(--soft)}.pairs dd{margin:0;font-variant-numeric:tabular-nums}
details{margin:1rem 0}summary{cursor:pointer;color:var(--accent);font-size:.9rem;padding:.35rem 0;width:fit-content}
details[open]>summary{margin-bottom:.5rem}
.told{margin:0;padding:0;list-style:none}
ul.told>li,ol.told>li{border-left:3px solid var(--line);padding:.1rem 0 .1rem 1rem;margin:0 0 1.15rem}
.told>li.warning{border-color:var(--warn)}.told p{margin:.1rem 0}
.tag{display:inline-block;font-size:.75rem;font-weight:600;border-radius:999px;padding:.02rem .6rem;margin-right:.5rem;
background:var(--faint);color:var(--soft)}.warning .tag{background:var(--warn-soft);color:var(--warn)}
.note{border-left:3px solid var(--warn);background:var(--warn-soft);padding:.6rem 1rem;border-radius:0 8px 8px 0;
max-width:none}
.bar{position:relative;height:2.2rem;margin:1.4rem 0 1.6rem;max-width:36rem}
.bar svg{width:100%;height:.8rem;display:block;overflow:visible}.bar span{position:absolute;top:1.1rem;font-size:.75rem;
color:var(--soft);transform:translateX(-50%);white-space:nowrap}
.legend+.bar{margin-top:.9rem}.bar .first{transform:none}.bar .last{transform:translateX(-100%)}
.confusion .scroll{width:fit-content;max-width:100%}.confusion table{width:auto}
.confusion th,.confusion td{padding:.28rem .5rem;text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums;border:0}.confusion tbody th{position:sticky;left:0;background:var(--card);
border-right:1px solid var(--line);max-width:11rem;overflow:hidden;text-overflow:ellipsis}
.confusion thead th{max-width:6rem;overflow:hidden;text-overflow:ellipsis}
.confusion .hit{background:rgba(var(--hit),var(--a))}.confusion .miss{background:rgba(var(--miss),var(--a))}
.confusion .nil{color:var(--line)}
.faces{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.4rem,1fr));gap:1.4rem .95rem;margin:1rem 0}
.faces figure{margin:0;break-inside:avoid}.faces img{width:100%;aspect-ratio:1;object-fit:contain;display:block;
border-radius:8px;background:var(--faint)}.pixels img{image-rendering:pixelated}
.faces figcaption{font-size:.8125rem;line-height:1.4;margin-top:.4rem}.faces b{font-weight:600}
.picture{max-width:100%;height:auto;border-radius:10px;background:#fff;border:1px solid var(--line)}
.steps{counter-reset:step;list-style:none;margin:0;padding:0}.steps>li{counter-increment:step;display:grid;
grid-template-columns:2.4rem minmax(0,1fr);padding:.75rem 0;border-top:1px solid var(--line)}
.steps>li:first-child{border-top:0}.steps>li::before{content:counter(step);font-weight:600;color:var(--accent);
font-variant-numeric:tabular-nums}.steps p{margin:.1rem 0}
@media (max-width:44rem){header,main,footer{padding-left:1.1rem;padding-right:1.1rem}header{padding-top:2rem}
h1{font-size:1.45rem}.charts{grid-template-columns:minmax(0,1fr)}.plot{grid-template-columns:2.9rem minmax(0,1fr)}
.wide .plot{grid-template-rows:auto 13.5rem 1.4rem}.xs .rare{display:none}
.pairs div{grid-template-columns:minmax(0,1fr);gap:0}section{margin-top:2.6rem}.tiles dd{font-size:1.3rem}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
.faces{grid-template-columns:repeat(auto-fill,minmax(5.6rem,1fr))}nav a{padding:.15rem 0}}
@media print{body{background:#fff;font-size:11pt}nav{display:none}section{margin-top:2rem}.scroll{overflow:visible}
h2,h3{break-after:avoid}tr,li{break-inside:avoid}}
"""

# Numbers are read back from the paths, which hold them to a thousandth of the axes' length.
SCRIPT = """
(function(){"use strict";
function short(v){var a=Math.abs(v);if(v===0)return"0";if(a>=1e6||a<1e-4)return v.toExponential(2).replace("e+","e");
return a>=1e4?Math.round(v).toLocaleString("en"):String(Number(v.toPrecision(4)))}
function points(path){var n=(path.getAttribute("d").match(/-?[0-9.]+/g)||[]).map(Number),out=[];
for(var i=0;i+1<n.length;i+=2)out.push([n[i],n[i+1]]);return out}
document.querySelectorAll(".area[data-x]").forEach(function(area){
var at=area.querySelector(".at"),read=area.querySelector(".read"),lines=null;
var x=area.dataset.x.split(" ").map(Number),y=area.dataset.y.split(" ").map(Number),log=area.dataset.log==="1";
function value(p){var s=1-p/1000;
return log?Math.exp(Math.log(y[0])+s*(Math.log(y[1])-Math.log(y[0]))):y[0]+s*(y[1]-y[0])}
function hide(){at.style.display=read.style.display="none"}
function show(event){var box=area.getBoundingClientRect(),px=(event.clientX-box.left)/box.width*1000;
lines=lines||Array.prototype.map.call(area.querySelectorAll("path[data-name]"),function(path){
return{name:path.dataset.name,points:points(path)}});
var near=null;lines.forEach(function(line){line.points.forEach(function(p){
if(near===null||Math.abs(p[0]-px)<Math.abs(near-px))near=p[0]})});if(near===null)return;
var text=["update "+Math.round(x[0]+near/1000*(x[1]-x[0])).toLocaleString("en")];
lines.forEach(function(line){var found=null;line.points.forEach(function(p){
if(found===null||Math.abs(p[0]-near)<Math.abs(found[0]-near))found=p});
if(found&&Math.abs(found[0]-near)<25)text.push(line.name+"  "+short(value(found[1])))});
at.style.left=near/10+"%";read.textContent=text.join("\\n");at.style.display=read.style.display="block";
if(near<500){read.style.left="calc("+near/10+"% + 8px)";read.style.right="auto"}
else{read.style.right="calc("+(100-near/10)+"% + 8px)";read.style.left="auto"}}
area.addEventListener("pointermove",show);area.addEventListener("pointerdown",show);
area.addEventListener("pointerleave",hide)});
document.querySelectorAll("table.sortable").forEach(function(table){
var heads=table.tHead.rows[0].cells,body=table.tBodies[0];
Array.prototype.forEach.call(heads,function(head,column){head.tabIndex=0;
function sort(){var up=head.getAttribute("aria-sort")==="descending",rows=Array.prototype.slice.call(body.rows);
function key(row){var text=row.cells[column].textContent.trim(),n=parseFloat(text.replace(/,/g,""));
return text==="\\u2013"||text===""?null:isNaN(n)||!/^[-0-9.,e]+$/.test(text)?text:n}
rows.sort(function(a,b){var p=key(a),q=key(b);if(p===null||q===null)return(p===null)-(q===null);
var c=typeof p==="number"&&typeof q==="number"?p-q:String(p).localeCompare(String(q));return up?c:-c});
Array.prototype.forEach.call(heads,function(h){h.removeAttribute("aria-sort")});
head.setAttribute("aria-sort",up?"ascending":"descending");rows.forEach(function(row){body.appendChild(row)})}
head.addEventListener("click",sort);
head.addEventListener("keydown",function(e){if(e.key==="Enter"||e.key===" "){e.preventDefault();sort()}})})});
})();
"""
