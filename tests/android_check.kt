// The Android app's own classes on a desktop JVM: everything but the screen. Commands: ids, golden, ask; texts come as JSON strings, one a line.
import edge.Bundle
import edge.OnnxNetwork
import java.io.File
import org.json.JSONArray
import org.json.JSONObject

fun main(arguments: Array<String>) {
    val (command, folder) = arguments
    Bundle({ File(folder, it).readBytes() }, ::OnnxNetwork).use { bundle ->
        val texts = if (command == "golden") emptyList() else System.`in`.bufferedReader().readLines().map { JSONArray("[$it]").getString(0) }
        val out = System.out.bufferedWriter()
        when (command) {
            "ids" -> texts.forEach { out.appendLine(bundle.encode(it).joinToString(",", "[", "]")) }
            "ask" -> texts.forEach { text -> bundle.ask(text).let { out.appendLine(JSONObject().put("answer", it.said).put("confidence", it.confidence).toString()) } }
            else -> bundle.check().let { out.appendLine(JSONObject().put("vectors", it.vectors).put("worst", it.worstLogit.toDouble()).put("wrong", it.wrong).toString()) }
        }
        out.flush()
    }
}
