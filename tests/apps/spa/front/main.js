const about = () => import("ABOUT");
fetch("/api/things").then((answer) => answer.json()).then((things) => console.log(things, about));
