import EdgeCore
import Foundation

/// A bundle: text in, answer out. An actor, since the model behind it answers one text at a time.
public actor Edge {
    public struct Answer: Sendable {
        /// The class, the classes with commas between, or "name: score" lines.
        public let said: String
        /// Of the class, where there is one.
        public let confidence: Double?
        /// Text in to answer out, on this device.
        public let milliseconds: Double
    }

    public enum Check: Sendable {
        case equal(vectors: Int)
        /// The first golden vector that this device answers otherwise.
        case differs(vector: Int, text: String)
    }

    public struct Problem: LocalizedError {
        public let errorDescription: String?
    }

    private let bundle: OpaquePointer

    /// Opens a bundle's folder; without one, the bundle that this package carries.
    public init(folder: URL? = nil) throws {
        let path = (folder ?? Bundle.module.url(forResource: "bundle", withExtension: nil)!).path
        var problem: UnsafeMutablePointer<CChar>?
        guard let opened = edge_open(path, &problem) else { throw Edge.taken(problem) }
        bundle = opened
    }

    deinit {
        edge_close(bundle)
    }

    public func ask(_ text: String) throws -> Answer {
        var problem: UnsafeMutablePointer<CChar>?
        let said = try Edge.json(edge_ask(bundle, text, &problem), problem)
        return Answer(said: Edge.plain(said["answer"]), confidence: said["confidence"] as? Double, milliseconds: said["ms"] as? Double ?? 0)
    }

    /// Holds the golden vectors against what this device answers.
    public func check() throws -> Check {
        var problem: UnsafeMutablePointer<CChar>?
        let seen = try Edge.json(edge_check(bundle, &problem), problem)
        if seen["golden"] as? String == "equal" { return .equal(vectors: seen["vectors"] as? Int ?? 0) }
        return .differs(vector: seen["vector"] as? Int ?? 0, text: seen["text"] as? String ?? "")
    }

    private static func json(_ text: UnsafeMutablePointer<CChar>?, _ problem: UnsafeMutablePointer<CChar>?) throws -> [String: Any] {
        guard let text else { throw taken(problem) }
        defer { edge_free(text) }
        let content = try JSONSerialization.jsonObject(with: Data(String(cString: text).utf8))
        return content as? [String: Any] ?? [:]
    }

    private static func taken(_ problem: UnsafeMutablePointer<CChar>?) -> Problem {
        defer { edge_free(problem) }
        return Problem(errorDescription: problem.map { String(cString: $0) })
    }

    private static func plain(_ answer: Any?) -> String {
        switch answer {
        case let name as String: return name
        case let names as [String]: return names.isEmpty ? "–" : names.joined(separator: ", ")
        case let scores as [String: Double]: return scores.sorted { $0.key < $1.key }.map { "\($0.key): \(String(format: "%.3f", $0.value))" }.joined(separator: "\n")
        default: return ""
        }
    }
}
